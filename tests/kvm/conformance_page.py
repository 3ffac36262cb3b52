"""Write docs/conformance.md: `python tests/kvm/conformance_page.py > docs/conformance.md`."""

import functools
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs
from kernel_recordings import kernel_of, recordings

from replay.analyses.check import check
from replay.analyses.check_report import CheckReport
from replay.header import Trailer
from replay.kvm.memory_region import CHECKS

INTRODUCTION = """\
# Conformance: the model against real kernels

`recordings/kernel/` holds what real kernels did: a probe performed KVM operations, a small test module registered notifiers,
added gfns, made chosen allocations fail, and read the real slots. Each recording has the calls with their results, and after
each call what the kernel allocated (by function, from /proc/vmallocinfo) and, where it was asked, the state of every slot in the
kernel's own order. `kvm-replay check RECORDING` replays the recorded kernel's lane and compares all of it:

```
kvm-replay check recordings/kernel/6.12-npt1/22-nested.kvmr
kvm-replay check --policy eager recordings/kernel/6.12eager-npt1/04-register.kvmr
```

The scripts 01 to 26 ask what was known to matter, those from 30 on what no other recording asked: each rule of the model is
changed in turn, and a rule that no recording held got an operation that shows it ([testing.md](testing.md)). The random ones do
40 to 160 operations each, chosen by a seed: slots that come, move, overlap and go in both address spaces, notifiers, gfns,
failing allocations of every array, and guests that write their page tables meanwhile. They are a sample of several hundred such
runs.

The kernels are Debian's: 6.1.192 (eager, the API of 5.16-6.5), 6.12.117 (on-demand, as merged), 6.12.117 with only the on-demand
policy undone in kvm.ko (eager with everything else equal), and both cloud flavours, which lack
CONFIG_KVM_EXTERNAL_WRITE_TRACKING. They ran under emulation with AMD SVM and nested paging. npt1: tdp on; npt0: tdp off;
notdpmmu: tdp on, TDP MMU off; smp2: two CPUs, where operations ran in parallel; la57: host with five-level paging. One more,
6.18.44, was asked as it ran, with a vendor module that pages its guests by shadow pages, and without the test module: it is the
only one whose memslots take a guest_memfd.

This page and the recordings are made by commands; tests hold page and recordings together (tests/kvm/test_conformance.py):

```
python tests/kvm/kernel_recordings.py RESULTS...    # RESULTS/<kernel>-<configuration>/<case>.out, as the probe printed them
python tests/kvm/conformance_page.py > docs/conformance.md
```
"""

BULK = "11-gfn-overflow"

WHY_NOT = {
    "allocations of kvm_dev_ioctl": "that is struct kvm itself: one a VM, the same under every policy, no metadata of a slot",
    "the model takes this result": "what the call needs is not modelled (descriptors, VM types, vCPUs, interrupt controller), "
    "so a comparison would compare the recording with itself",
    "the function is void": "before 6.6 kvm_page_track_register_notifier() has no result, it can not fail",
    "lost: shadow pages of a guest": "the guest ran while no tracepoint was on: which shadow pages came and went is not known; "
    "memslots, flags and results are compared all the same",
    "lost: the probe was ended": "the memory cgroup's OOM killer chose the probe: whether a task over its limit gets -ENOMEM or "
    "SIGKILL depends on oom_score_adj and on what else could be killed, not on KVM. The same script with an unkillable probe "
    "(14-enomem-memcg) is compared in full",
}
"""Reason, by its beginning -> why no deterministic model of memslots can tell."""

WHY_PASSED_OVER = {
    "VM closed while": "the descriptor of the VM was closed, something else still held it: no end of a VM",
    "answer of the test module": "the module refused before it asked KVM (EDOM, EALREADY, ENOBUFS, EMEDIUMTYPE, EBADF)",
    "areas of operations that ran in parallel": "which function allocated an array depended on the order of parallel calls; the "
    "arrays themselves are compared",
    "call on a descriptor that is no VM": "EBADF comes from the file table",
    "notifier callbacks": "which writes reached a notifier, and when a slot was taken from it, is recorded by the module and not "
    "in the vocabulary of observations",
    "passthrough root that text traces": "a level-5 root over four-level tables is not counted (role.passthrough, not in text "
    "traces): a kprobe on the counting function tells",
    "userspace address of named memory": "the probe did not print where mmap() put guest memory; no compared fact "
    "depends on the stand-in that takes its place",
    "the probe was ended": "see above",
}
"""Counter of an import, by its beginning -> what it means."""


@attrs.frozen
class Case:
    """One recording and what its check gave."""

    folder: str
    name: str
    report: CheckReport
    trailer: Trailer


@functools.cache
def cases() -> tuple[Case, ...]:
    """Check every recording, once."""
    found = []
    for path, stream in recordings():
        report = check(stream, policy=kernel_of(path.parent.name).policy)
        found.append(Case(path.parent.name, path.stem, report, stream.trailer()))
    return tuple(found)


def page(found: Sequence[Case]) -> str:
    """Return the page."""
    return "\n".join([INTRODUCTION, *_by_folder(found), *_by_facet(found), *_by_case(found), *_rules(found), *_exceptions(found)])


def _table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    text = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *text)]


def folders(found: Sequence[Case]) -> list[str]:
    """List the kernels with their configurations, in the order of the recordings."""
    return list(dict.fromkeys(case.folder for case in found))


def _by_folder(found: Sequence[Case]) -> list[str]:
    rows = []
    for folder in [*folders(found), "all"]:
        reports = [case.report for case in found if folder in {case.folder, "all"}]
        policies = sorted({report.policy for report in reports})
        sums = [
            sum(getattr(r, name) for r in reports) for name in ("events", "checked", "agreed", "mismatch_count", "not_checkable")
        ]
        rows.append((folder, policies[0] if len(policies) == 1 else "", len(reports), *sums))
    titles = ("kernel and configuration", "policy", "recordings", "events", "comparisons", "agree", "differ", "not checkable")
    return ["## By kernel and configuration", "", *_table(titles, rows), ""]


def _by_facet(found: Sequence[Case]) -> list[str]:
    counts: Counter[str] = Counter()
    agreed: Counter[str] = Counter()
    for case in found:
        for facet in case.report.facets:
            counts[facet.name] += facet.checked
            agreed[facet.name] += facet.agreed
    rows = [(name, counts[name], agreed[name]) for name in sorted(counts)]
    bulk = sum(case.report.checked for case in found if case.name == BULK)
    total = sum(case.report.checked for case in found)
    return [
        "## By what is compared",
        "",
        *_table(("fact", "comparisons", "agree"), rows),
        "",
        f"Most of them are one gfn added again and again ({BULK}); without it there are {total - bulk:,} comparisons.",
        "",
    ]


def _by_case(found: Sequence[Case]) -> list[str]:
    names = sorted({case.name for case in found})
    cells = {(case.folder, case.name): case.report.checked for case in found}
    rows = [(folder, *(cells.get((folder, name), "-") for name in names)) for folder in folders(found)]
    return ["## Comparisons by recording", "", *_table(("", *names), rows), ""]


def _rules(found: Sequence[Case]) -> list[str]:
    counts: Counter[tuple[str, str, str]] = Counter()
    for case in found:
        for rule in case.report.rules:
            counts[rule.kind, rule.rule, rule.source] += rule.checked
    rows = [(kind, rule or "its own result", count) for (kind, rule, _source), count in sorted(counts.items())]
    unseen = [row.name for row in CHECKS if row.name not in {rule for _kind, rule, _source in counts}]
    return [
        "## Rules behind the compared results",
        "",
        *_table(("call", "what decided", "comparisons"), rows),
        "",
        f"Of the {len(CHECKS)} checks of a memslot request, these {len(unseen)} have refused nothing in these recordings, and",
        f"rest on the kernel's text: {'; '.join(unseen)}. No request of userspace gets so far that they could.",
        "",
    ]


def _exceptions(found: Sequence[Case]) -> list[str]:
    reasons: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    for case in found:
        for reason in case.report.reasons:
            reasons[explained(reason.reason, WHY_NOT)] += reason.count
        for counter in case.trailer.counters:
            passed[explained(counter.kind, WHY_PASSED_OVER)] += counter.count
    return [
        "## What can not be compared, and why",
        "",
        *_table(("recorded fact", "count", "why"), [(key, reasons[key], WHY_NOT[key]) for key in sorted(reasons)]),
        "",
        "Passed over when the results were read:",
        "",
        *_table(("what", "count", "why"), [(key, passed[key], WHY_PASSED_OVER[key]) for key in sorted(passed)]),
        "",
    ]


def explained(text: str, table: dict[str, str]) -> str:
    """Return the key that explains a reason; there is exactly one."""
    (key,) = [key for key in table if text.startswith(key)]
    return key


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.stdout.write(page(cases()))
