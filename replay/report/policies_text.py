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
            ("CONFIG_KVM_EXTERNAL_WRITE_TRACKING", policy.config),
            ("write tracking is enabled when", policy.enabled_when),
            ("first registration", f"{registers}; {checks}"),
            ("MOVE with a notifier", policy.move_with_notifier),
            ("add or remove while not enabled", policy.tracking_when_disabled),
            ("note", policy.note),
            ("source", policy.source),
            ("catalogue", policy.catalogue),
        ):
            if words:
                yield from _line(f"{name}: {words}")
        yield ""
    yield paint("bold", "decided by the release, under any policy")
    for axis in report.releases:
        yield from _line(f"{axis.title}: {axis.kernels} (catalogue {axis.catalogue})")
        yield from _line(f"  source: {axis.source}")
    yield ""
    yield "--lanes also takes `eager` (the flavour that fits the release), kernel releases such as 6.8, and `all`: each of these."


def _line(words: str) -> list[str]:
    indent = " " * (len(words) - len(words.lstrip()))
    return wrap(words, 110, initial_indent="  ", subsequent_indent=f"    {indent}", break_on_hyphens=False)
