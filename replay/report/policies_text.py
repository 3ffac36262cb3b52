"""Say in text which policies there are."""

from collections.abc import Iterator
from textwrap import wrap

from replay.analyses.policy_list import PoliciesReport
from replay.report.paint import Paint


def policies_text(report: PoliciesReport, paint: Paint | None = None) -> Iterator[str]:
    """Yield the lines of the list."""
    paint = paint or Paint()
    for policy in report.policies:
        yield paint("bold", policy.name) + f"  {policy.title}"
        registers = "allocates the arrays of all slots" if policy.register_allocates else "allocates nothing"
        checks = "-ESRCH from another mm, holds the VM" if policy.register_checks_mm else "no check of the mm"
        for name, words in (
            ("kernels", policy.kernels),
            ("write tracking is enabled when", policy.enabled_when),
            ("first registration", f"{registers}; {checks}"),
            ("MOVE with a notifier", policy.move_with_notifier),
            ("add or remove while not enabled", policy.tracking_when_disabled),
            ("source", policy.source),
        ):
            yield from wrap(f"{name}: {words}", 110, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
        yield ""
    yield "--lanes also takes `eager` (the flavour that fits the release) and kernel releases such as 6.8."
