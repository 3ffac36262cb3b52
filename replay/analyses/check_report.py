"""Hold what `check` found: how much of a recording the model was held against, and where the kernel contradicts it."""

from typing import Final

import attrs

from replay.analyses.compare_report import Fact
from replay.analyses.order_report import OrderReport
from replay.events.base import ByFields, flag, text, uint, value, values
from replay.header import CUT_SHORT_TEXT

MISMATCHES_MAX: Final = 1000
"""Most mismatches that are kept; all of them are counted."""

AGREES: Final = 0
CONTRADICTED: Final = 1
CANNOT_TELL: Final = 3
CHECK_WORDS: Final = {AGREES: "agrees", CONTRADICTED: "contradicted", CANNOT_TELL: "cannot tell"}


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Facet(ByFields):
    """One kind of fact that the model was held against."""

    name: str = text("what was compared", length_max=64)
    checked: int = uint("comparisons made")
    agreed: int = uint("comparisons in which model and kernel agree")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Rule(ByFields):
    """One rule of the model that decided a result which was compared."""

    kind: str = text("kind of event", length_max=64)
    rule: str = text("what decided: the check that refused, or what the call was", length_max=256)
    source: str = text("where the kernel has that rule", length_max=512)
    checked: int = uint("comparisons that it decided")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Reason(ByFields):
    """Why something recorded could not be compared."""

    reason: str = text("the reason", length_max=256)
    count: int = uint("how many facts it kept from being compared")
    first_event: int = uint("number of the first such event")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Mismatch(ByFields):
    """One fact in which the recorded kernel contradicts the model."""

    event: int = uint("number of the event, from 0")
    line: int | None = uint("line of the trace that it was read from", optional=True)
    vm: int | None = uint("VM that it speaks of", bits=32, optional=True)
    facet: str = text("kind of fact", default="", length_max=64)
    what: str = text("what was compared", length_max=256)
    expected: str = text("what the model says", length_max=4096)
    observed: str = text("what the kernel did", length_max=4096)
    rule: str = text("the rule of the model that says so", length_max=256)
    source: str = text("where the kernel has that rule", length_max=512)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class CheckReport(ByFields):
    """The answer of `check`. checked = agreed + mismatches; zero checks is never a pass."""

    title: str = text("title of the recording", length_max=256)
    policy: str = text("policy that was checked", length_max=64)
    release: str = text("kernel release that was checked, empty: not known", length_max=128)
    profile: tuple[Fact, ...] = values("facts of the machine", Fact, length_max=64)
    events: int = uint("events replayed")
    checked: int = uint("comparisons made")
    agreed: int = uint("comparisons in which model and kernel agree")
    not_checkable: int = uint("recorded facts that could not be compared")
    doubtful: int = uint(
        "of those, facts behind a loss, in an unknown past, after a call that the recorder did not show, or of an unclear order"
    )
    losses: int = uint("what the recording's end counts as lost or not understood, at no known place")
    cut_short: bool = flag(CUT_SHORT_TEXT, default=False)
    mismatch_count: int = uint("comparisons in which they do not agree")
    facets: tuple[Facet, ...] = values("comparisons by kind", Facet, length_max=64)
    rules: tuple[Rule, ...] = values("rules that decided the compared results", Rule, length_max=1024)
    reasons: tuple[Reason, ...] = values("why facts could not be compared", Reason, length_max=1024)
    mismatches: tuple[Mismatch, ...] = values("the first mismatches", Mismatch, length_max=MISMATCHES_MAX)
    orders: OrderReport | None = value("calls that overlap in time; null: there are none", OrderReport)

    def status(self) -> int:
        """Return 0 when all agree, 1 when the kernel contradicts the model, 3 when nothing can be said.

        A loss at a known place, such as behind the last event, leaves what was compared before it: a mismatch there stands.
        One at an unknown place may be the cause of any mismatch.
        """
        if not self.checked or not self.release or self.losses:
            return CANNOT_TELL
        if self.mismatch_count:
            return CONTRADICTED
        unclear = self.orders is not None and self.orders.unclear
        return CANNOT_TELL if self.doubtful or self.cut_short or unclear else AGREES
