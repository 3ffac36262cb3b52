"""Say in text what a recording holds."""

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import Final

from replay.analyses.info import Info, TrackingCounts, VmInfo
from replay.analyses.memslot_log import MemslotChanges
from replay.events import Opaque
from replay.events.base import specs
from replay.header import Machine
from replay.report.columns import columns
from replay.report.event_text import time_text
from replay.report.paint import Paint
from replay.report.plain import printable
from replay.units import bytes_text, counted, fact_word

VMS_SHOWN: Final = 20
"""Most VMs that get a line of their own; JSON has them all."""
COUNTERS_SHOWN: Final = 20
"""Most counters of one severity that get a line; JSON has them all."""
_INDENT: Final = "  "
_FACT_WIDTH: Final = 96
"""Longest part of a fact that stands on one line, behind its name."""


def info_text(info: Info, paint: Paint | None = None) -> Iterator[str]:
    """Yield the lines of the report."""
    paint = paint or Paint()
    for block in (_facts(info), _events(info), _memslots(info), _tracking(info), _losses(info)):
        title, *lines = block
        yield paint("bold", title)
        yield from (f"{_INDENT}{line}" for line in lines)


def _facts(info: Info) -> list[str]:
    rows = [
        ("machine", machine_text(info.machine)),
        ("clock", _span(info)),
        ("recorded by", ", ".join(f"{tool.name} {tool.version}".strip() for tool in info.tools) or "not known"),
        ("read from", ", ".join(f"{source.name} ({source.format})" for source in info.sources) or "no trace"),
        ("start", "before the first VM was created" if info.complete_start else "VMs were alive already: their past is unknown"),
    ]
    if info.cut_short:
        rows.append(("end", "not there: what follows counts the front of the recording alone"))
    if info.provenance:
        rows.append(("provenance", info.provenance))
    title = printable(info.title) or "untitled recording"
    parts = ((key, wrap(printable(text), _FACT_WIDTH, break_on_hyphens=False) or [""]) for key, text in rows)
    return [
        title,
        *columns([("" if place else key, part) for key, found in parts for place, part in enumerate(found)], left=(0, 1)),
    ]


def machine_text(machine: Machine) -> str:
    """Say the facts of a machine that are known, in the names that `import --machine` takes.

    >>> machine_text(Machine(kernel_release="6.8", tdp=True, page_size_bytes=4096))
    'kernel_release=6.8 tdp=y page_size_bytes=4096'
    """
    facts = [(name, getattr(machine, name)) for name in specs(Machine)]
    known = [f"{name}={fact_word(fact)}" for name, fact in facts if fact is not None]
    return " ".join(known)


def _span(info: Info) -> str:
    if info.first_time_ns is None or info.last_time_ns is None:
        return f"{info.clock}; no event has a time"
    return f"{info.clock}; {time_text(info.last_time_ns - info.first_time_ns)[1:]} from first to last event"


def _events(info: Info) -> list[str]:
    who = f"{counted(info.vms, 'VM')}, {counted(info.tasks, 'thread')} of {counted(info.processes, 'process', 'processes')}"
    return [f"{counted(info.events, 'event')}; {who}", *columns(list(_kinds(info)), left=(0, 2))]


def _kinds(info: Info) -> Iterator[Sequence[str]]:
    """Yield the kinds with their counts; of calls whose arguments are not recorded, which calls they are."""
    names = ", ".join(f"{printable(call.kind)} {call.count:,}" for call in info.opaque)
    for kind in info.kinds:
        yield (kind.kind, f"{kind.count:,}", *([f"without arguments: {names}"] if kind.kind == Opaque.KIND else []))


def _memslots(info: Info) -> list[str]:
    if not info.memslot_changes.calls:
        return ["no memslot calls, but for those whose arguments are not recorded" if info.opaque else "no memslot calls"]
    rows: list[Sequence[str]] = [("VM", "calls", *_CHANGE_TITLES, "slots peak", "memory peak")]
    rows.append(_memslot_row("all", info.memslot_changes, info.slots_peak, info.memory_peak_bytes))
    shown = info.by_vm[:VMS_SHOWN] if len(info.by_vm) > 1 else ()
    rows.extend(_memslot_row(_vm_name(vm), vm.memslot_changes, vm.slots_peak, vm.memory_peak_bytes) for vm in shown)
    lines = ["memslot calls", *columns(rows)]
    if len(shown) < len(info.by_vm) and shown:
        lines.append(f"and {counted(len(info.by_vm) - len(shown), 'more VM')}; --format json has them all")
    if info.memslot_changes.delete_unseen:
        lines.append(f"{info.memslot_changes.delete_unseen} of the deletes: slots whose creation is not in the recording")
    return lines


_CHANGE_TITLES: Final = ("create", "delete", "move", "flags only", "unchanged", "failed", "unknown")


def _memslot_row(name: str, changes: MemslotChanges, slots_peak: int, memory_peak_bytes: int) -> tuple[str, ...]:
    counts = (
        changes.calls,
        changes.create,
        changes.delete,
        changes.move,
        changes.flags_only,
        changes.unchanged,
        changes.failed,
        changes.unknown,
        slots_peak,
    )
    return (name, *(f"{count:,}" for count in counts), bytes_text(memory_peak_bytes))


def _vm_name(vm: VmInfo) -> str:
    return f"{vm.vm}{' (found alive)' if vm.attached else ''}"


def _tracking(info: Info) -> list[str]:
    total = info.tracking
    if total == TrackingCounts():
        return ["no write tracking recorded"]
    rows = [
        ("write-track adds", f"{total.adds:,}", f"{total.external_adds:,} external, the rest shadow pages of level 2 and up"),
        ("write-track removes", f"{total.removes:,}", f"{total.external_removes:,} external"),
        ("shadow pages created", f"{total.shadow_pages_created:,}", "of any level"),
        ("shadow pages zapped", f"{total.shadow_pages_zapped:,}", ""),
    ]
    if total.external_failed:
        rows.append(("external calls failed", f"{total.external_failed:,}", ""))
    return ["write tracking", *columns(rows, left=(0, 2))]


def _losses(info: Info) -> list[str]:
    if not info.counters:
        return ["nothing lost, unknown or ignored"]
    title = f"{info.lost:,} lost, {info.unknown:,} unknown, {info.ignored:,} ignored"
    rows: list[Sequence[str]] = []
    for severity in ("lost", "unknown", "ignored"):
        counters = [counter for counter in info.counters if counter.severity == severity]
        rows.extend(
            (
                severity,
                f"{counter.count:,}",
                printable(counter.kind),
                printable(f"first at {counter.first}" if counter.first else ""),
            )
            for counter in counters[:COUNTERS_SHOWN]
        )
        if len(counters) > COUNTERS_SHOWN:
            rows.append((severity, f"{len(counters) - COUNTERS_SHOWN:,}", "more kinds; --format json has them all"))
    return [title, *columns(rows, left=(0, 2, 3))]
