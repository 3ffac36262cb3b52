"""Promises of snapshots of /proc/vmallocinfo beside a trace."""

from pathlib import Path

import pytest
from run_texts import BASE_NS, STEP_NS, Exit, Item, Page, memslot, run, strace_text, trace_text, vm

from replay.errors import TraceOptionError, UsageError
from replay.events import Event, Observe, ObservedArea
from replay.runs import events_of
from replay.sources import open_stream
from replay.sources.snapshots import FIRST, NEXT

OTHER = "0xffffc90000000000-0xffffc90000005000   20480 irq_init_percpu_irqstack+0x9a/0xe0 vmap\n"
RMAP = "0xffffc90000010000-0xffffc90000013000   12288 memslot_rmap_alloc+0x68/0xb0 [kvm] pages=2 vmalloc N0=2\n"
TRACK = "0xffffc90000020000-0xffffc90000022000    8192 kvm_page_track_create_memslot+0x4c/0x80 [kvm] pages=1 vmalloc N0=1\n"
RUN: list[Item] = [
    *vm(100, 4, vcpu_fd=5),
    run(100, 5),
    Page(100, made=True, gfn=1),
    Exit(100),
    memslot(100, 4, 0, 0, 0),
    Exit(100),
]


def events(folder: Path, *snapshots: str, trace: bool = True) -> list[Event]:
    """Import a run with snapshots beside it, each in a file of its own."""
    (folder / "strace.txt").write_text(strace_text(RUN))
    (folder / "ftrace.txt").write_bytes(trace_text(RUN))
    names = ["strace.txt", "ftrace.txt"] if trace else []
    for place, text in enumerate(snapshots):
        (folder / f"v{place}").write_text(text)
        names.append(f"v{place}")
    stream = open_stream([str(folder / name) for name in names])
    found = list(events_of(stream.items()))
    assert stream.trailer().events == len(found)
    assert [source.format for source in stream.header.sources][-len(snapshots) :] == ["vmallocinfo"] * len(snapshots)
    return found


def observed(found: list[Event]) -> list[tuple[int, str, tuple[ObservedArea, ...] | None]]:
    """Return place, label and areas of each observation."""
    return [(place, event.label, event.areas) for place, event in enumerate(found) if isinstance(event, Observe)]


class TestPlaces:
    """Where a snapshot goes."""

    def test_before_and_after(self, tmp_path: Path) -> None:
        """Two files without times are from before and after the run; the second says what changed."""
        found = events(tmp_path, OTHER + RMAP, OTHER + TRACK)
        rows = (ObservedArea("kvm_page_track_create_memslot", 1, 1, 0, 0), ObservedArea("memslot_rmap_alloc", 0, 0, 1, 2))
        assert observed(found) == [(0, FIRST, None), (len(found) - 1, NEXT, rows)]

    def test_by_time(self, tmp_path: Path) -> None:
        """Headings with times put each between the events that it was read between."""
        times = [BASE_NS, BASE_NS + 4 * STEP_NS + 1, BASE_NS + 8 * STEP_NS + 1, BASE_NS + 90 * STEP_NS]
        texts = [OTHER, OTHER + RMAP, OTHER + RMAP + TRACK, OTHER]
        found = events(tmp_path, "".join(f"# time_ns={ns}\n{text}" for ns, text in zip(times, texts, strict=True)))
        kinds = [event.KIND for event in found]
        assert kinds == [
            "observe",
            "vm.create",
            "memslot.set",
            "observe",
            "vcpu.create",
            "shadow_root.alloc",
            "shadow_page.account",
            "observe",
            "memslot.set",
            "observe",
        ]
        assert [areas for _, _, areas in observed(found)] == [
            None,
            (ObservedArea("memslot_rmap_alloc", 1, 2, 0, 0),),
            (ObservedArea("kvm_page_track_create_memslot", 1, 1, 0, 0),),
            (ObservedArea("kvm_page_track_create_memslot", 0, 0, 1, 1), ObservedArea("memslot_rmap_alloc", 0, 0, 1, 2)),
        ]
        assert [event.source.line for event in found if isinstance(event, Observe) and event.source] == [1, 3, 6, 10]


class TestRefused:
    """What can not be used."""

    def test_hidden_addresses(self, tmp_path: Path) -> None:
        """Without addresses nothing can be told."""
        hidden = OTHER + RMAP.replace("0xffffc90000010000-0xffffc90000013000", "0x0000000000000000-0x0000000000000000")
        with pytest.raises(TraceOptionError, match="root"):
            events(tmp_path, hidden)

    def test_alone(self, tmp_path: Path) -> None:
        """Snapshots without a trace say nothing of a run."""
        with pytest.raises(UsageError):
            events(tmp_path, OTHER + RMAP, trace=False)
