"""Promises of the text on calls that overlap in time."""

import pytest

from replay.analyses.check_report import CANNOT_TELL, CheckReport
from replay.analyses.order_report import CANNOT_TELL as UNDECIDED
from replay.analyses.order_report import NONE_FITS, RECORDED, REORDERED, OrderGroup, OrderReport
from replay.report.check_text import verdict
from replay.report.order_text import GROUPS_SHOWN, order_lines


def group(fits: str = RECORDED, **more: object) -> OrderGroup:
    """Return a group of two calls."""
    fields: dict[str, object] = {"vm": 0, "events": (3, 4), "chosen": (3, 4), "fits": fits, "tried": 5}
    return OrderGroup(**(fields | more))  # type: ignore[arg-type]  # whatever the test says


def report(*groups: OrderGroup) -> OrderReport:
    """Return a report with these groups."""
    fits = [one.fits for one in groups]
    return OrderReport(
        budget=10,
        groups=len(groups),
        calls=2 * len(groups),
        largest=2,
        recorded=fits.count(RECORDED),
        reordered=fits.count(REORDERED),
        none_fits=fits.count(NONE_FITS),
        undecided=fits.count(UNDECIDED),
        unjudged=0,
        order_matters=0,
        doubted=0,
        tried=9,
        listed=groups,
    )


class TestLines:
    """What is said of each group."""

    def test_nothing_overlaps(self) -> None:
        """There is no section then."""
        assert order_lines(None) == []

    @pytest.mark.parametrize(
        ("one", "said"),
        [
            (group(REORDERED, chosen=(4, 3)), "replayed as 4, 3; as recorded they can not have had their results"),
            (group(NONE_FITS), "none of their orders gives the recorded results (5 calls tried)"),
            (
                group(UNDECIDED, why="no time"),
                "it can not be told whether some order gives the recorded results: no time (5 calls tried)",
            ),
            (
                group(differing=(4,)),
                "another order fits as well, in which something else is done by 4; the lanes part in the same way then",
            ),
            (group(differing=(3, 4), matters=True), "another order fits as well, in which something else is done by 3, 4"),
            (group(open_end=True), "orders that fit lead to different states, and nothing recorded tells which it was"),
            (group(complete=False, why="no time"), "not all orders were tried: no time"),
        ],
    )
    def test_each(self, one: OrderGroup, said: str) -> None:
        """One line for each thing that there is to say, with the events."""
        assert order_lines(report(one))[2:] == [f"VM 0 events 3, 4: {said}"]

    def test_counts(self) -> None:
        """Groups are counted by what came of them."""
        lines = order_lines(report(group(REORDERED), group(NONE_FITS, vm=None), group(REORDERED, events=(7, 8, 9, 20))))
        assert lines[:2] == [
            "calls that overlap in time",
            "6 calls in 3 groups, at most 2 in one: 2 replayed in another order, 1 of which no order fits",
        ]
        assert [line.partition(":")[0] for line in lines[2:]] == [
            "VM 0 events 3, 4",
            "all VMs events 3, 4",
            "VM 0 events 7-9, 20",
        ]

    def test_many(self) -> None:
        """Of many groups the first ones are shown, and the rest is counted."""
        lines = order_lines(report(*(group(NONE_FITS),) * (GROUPS_SHOWN + 3)))
        assert len(lines) == 2 + GROUPS_SHOWN + 1
        assert lines[-1] == "and 3 more groups; --format json has them"


class TestVerdict:
    """The sentence of `check`."""

    @staticmethod
    def of(orders: OrderReport, mismatches: int) -> CheckReport:
        """Return a report of seven comparisons."""
        return CheckReport(
            title="t",
            policy="on-demand",
            release="6.12",
            profile=(),
            events=9,
            checked=7,
            agreed=7 - mismatches,
            not_checkable=0,
            doubtful=0,
            losses=0,
            mismatch_count=mismatches,
            facets=(),
            rules=(),
            reasons=(),
            mismatches=(),
            orders=orders,
        )

    def test_undecided(self) -> None:
        """A group of which it can not be told makes the whole answer so, unless something contradicts."""
        found = self.of(report(group(UNDECIDED)), 0)
        assert found.status() == CANNOT_TELL
        assert verdict(found).startswith("cannot tell: calls overlap in time")
        assert self.of(report(group(UNDECIDED)), 1).status() == 1

    def test_none_fits(self) -> None:
        """Groups without an order are counted beside the mismatches."""
        assert verdict(self.of(report(group(NONE_FITS)), 1)).endswith(
            "1 of 7 comparisons; of 1 group of overlapping calls no order fits"
        )
