"""Promises of the import of tracefs text alone: every spelling says the same, damage is counted, VMs are told apart."""

import gzip
import lzma
import random
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from run_texts import (
    PLAIN,
    STYLES,
    TGIDS,
    Enter,
    Exit,
    Imported,
    Item,
    Page,
    Raw,
    Style,
    imported_trace,
    run,
    trace_text,
    vm,
)

from replay.errors import EmptyError, KvmReplayError, TraceSyntaxError
from replay.events import HotEvent, IdentityMapSet, Lost, NrMmuPagesSet, Opaque, TssSet, VcpuCreate, VmDestroy
from replay.runs import events_of
from replay.sources import ioctls, open_stream
from replay.sources.tracefs import TracefsImport
from replay.sources.tracefs_calls import LATE_EXIT, LOST_EXIT
from replay.sources.tracefs_pages import AMBIGUOUS, LEVEL_5, ROLE_BITS

DATA = Path(__file__).parent.parent / "data" / "tracefs"
START: list[Item] = [item for item in vm(100, 4, vcpu_fd=5) if not hasattr(item, "text")]

pages = st.builds(
    Page,
    st.just(0),
    made=st.booleans(),
    gfn=st.integers(0, 3) | st.integers(0, (1 << 52) - 1),
    level=st.integers(1, 4),
    direct=st.booleans(),
    invalid=st.booleans(),
    existing=st.booleans(),
)
stretches = st.tuples(st.sampled_from([100, 101, 102]), st.lists(pages, max_size=6), st.booleans())


def items_of(parts: list[tuple[int, list[Page], bool]]) -> list[Item]:
    """Return a run: stretches of pages inside KVM_RUN, some inside a memslot call, of one thread after the other."""
    items = list(START)
    for tid, inside, memslot in parts:
        items.append(Enter(tid, 4, ioctls.KVM_SET_USER_MEMORY_REGION, value=0x7FFD00000000) if memslot else run(tid, 5))
        items += [Page(tid, p.made, p.gfn, p.level, p.direct, p.invalid and not p.made, p.existing) for p in inside]
        items.append(Exit(tid, 0 if memslot else -4))
    return items


def facts(result: Imported) -> list[tuple[object, ...]]:
    """Return what has to be the same in every spelling."""
    found: list[tuple[object, ...]] = []
    for event in result.events:
        page = (event.gfn, event.level) if isinstance(event, HotEvent) else ()
        call = (getattr(event, "vm", None), getattr(event, "ret", None))
        found.append((event.KIND, *call, *page, event.task and event.task.tid, event.source))
    return found


class TestStyles:
    """Options of the kernel change how a trace looks, not what it says."""

    @settings(deadline=None)
    @given(st.lists(stretches, max_size=8))
    def test_same_events(self, parts: list[tuple[int, list[Page], bool]]) -> None:
        """All column layouts and page spellings give the same events, threads and lines."""
        items = items_of(parts)
        expected = imported_trace(trace_text(items))
        made = sum(
            isinstance(item, Page) and not item.direct and not item.invalid and not (item.made and item.existing)
            for item in items
        )
        assert sum(isinstance(event, HotEvent) for event in expected.events) == made
        for style in STYLES:
            found = imported_trace(trace_text(items, style))
            assert facts(found) == facts(expected), style.name
            assert [c for c in found.trailer.counters if c.severity == "unknown"] == []

    @pytest.mark.parametrize("style", [style for style in STYLES if not style.latency], ids=lambda style: style.name)
    def test_times(self, style: Style) -> None:
        """Times are the trace's, to the microsecond."""
        items = items_of([(101, [Page(0, made=True, gfn=1)], False)])
        times = [event.time_ns for event in imported_trace(trace_text(items, style)).events]
        assert times == [event.time_ns for event in imported_trace(trace_text(items)).events]
        assert None not in times

    def test_latency_times(self) -> None:
        """Those of the latency format count from its beginning."""
        items = items_of([(101, [Page(0, made=True, gfn=1)], False)])
        style = next(style for style in STYLES if style.latency)
        assert [event.time_ns for event in imported_trace(trace_text(items, style)).events][:2] == [100_000, 300_000]

    def test_processes(self) -> None:
        """Option record-tgid gives the process of each thread."""
        result = imported_trace(trace_text(items_of([(101, [Page(0, made=True, gfn=1)], False)]), Style("tgid", tgid=True)))
        assert {(event.task.pid, event.task.tid) for event in result.events if event.task} == {(100, 100), (100, 101)}
        assert TGIDS[101] == 100

    def test_no_line_end(self) -> None:
        """A last line without an end is read when it is whole, and a loss when it is not."""
        text = trace_text(items_of([(101, [Page(0, made=True, gfn=1), Page(0, made=False, gfn=1)], False)]))
        whole = text.split(b"\n")
        assert imported_trace(b"\n".join(whole[:-2])).kinds()[-1] == "shadow_page.unaccount 1"
        cut = imported_trace(b"\n".join(whole[:-2])[:-3])
        assert cut.kinds()[-1] == "shadow_page.account 1"
        assert cut.count("damaged kvm_mmu_prepare_zap_page") == 1
        assert imported_trace(text + whole[2][:20]).count("last line is cut") == 1


class TestCalls:
    """What the numbers of a call say without what its pointers point to."""

    def test_by_value(self) -> None:
        """Arguments by value are known, memslot and other pointers are not."""
        items = list(START)
        for cmd, value in (
            (ioctls.KVM_SET_TSS_ADDR, 0xFFFBD000),
            (ioctls.KVM_SET_NR_MMU_PAGES, 128),
            (ioctls.KVM_SET_IDENTITY_MAP_ADDR, 0x7FFD00000000),
        ):
            items += [Enter(100, 4, cmd, value=value), Exit(100)]
        events = imported_trace(trace_text(items)).events
        assert [type(event) for event in events[1:]] == [Opaque, VcpuCreate, TssSet, NrMmuPagesSet, IdentityMapSet]
        tss, limit, identity = events[3:]
        assert isinstance(tss, TssSet)
        assert isinstance(limit, NrMmuPagesSet)
        assert isinstance(identity, IdentityMapSet)
        assert (tss.guest_phys_addr, limit.nr_mmu_pages, identity.guest_phys_addr) == (0xFFFBD000, 128, None)

    def test_signed_command(self) -> None:
        """A command that the caller passed as a negative int is the same command."""
        text = trace_text([*START, Enter(100, 4, ioctls.KVM_CREATE_GUEST_MEMFD), Exit(100, 9)])
        assert b"cmd: 0xc040aed4" in text
        result = imported_trace(text.replace(b"cmd: 0xc040aed4", b"cmd: 0xffffffffc040aed4"))
        assert result.kinds()[-1] == "guest_memfd.create"

    def test_halves(self) -> None:
        """A result without an entry and an entry without a result are counted."""
        assert imported_trace(trace_text([Exit(100), *START])).count(LATE_EXIT) == 1
        assert imported_trace(trace_text([*START, run(100, 5), run(100, 5), Exit(100)])).count(LOST_EXIT) == 1

    def test_close(self) -> None:
        """A trace with close() in it ends its VMs, after the pages that the last close zaps."""
        items: list[Item] = [*START, run(100, 5), Page(100, made=True, gfn=1), Exit(100)]
        text = trace_text(items)
        for fd in (5, 4):
            text += PLAIN.line(100, 10**18 * 2, b"sys_close(fd: %d)" % fd)
            text += trace_text([Page(100, made=False, gfn=1)]) if fd == 4 else b""
            text += PLAIN.line(100, 10**18 * 2, b"sys_close -> 0x0")
        result = imported_trace(text)
        assert result.kinds()[-3:] == ["shadow_page.account 1", "shadow_page.unaccount 1", "vm.destroy"]
        assert isinstance(result.events[-1], VmDestroy)

    def test_other_devices(self) -> None:
        """Calls of other devices are passed over, both halves."""
        result = imported_trace(trace_text([*START, Enter(100, 0, 0x5401), Exit(100, -22), Enter(100, 0, 0x5401)]))
        assert result.kinds() == ["vm.create", "opaque", "vcpu.create"]
        assert [c for c in result.trailer.counters if c.severity != "ignored"] == []


class TestMarks:
    """What a trace can not say is said."""

    def test_lost_events(self) -> None:
        """A ring overrun, counted or not, and an overwritten ring are losses of everything."""
        lines = [b"CPU:0 [LOST 12 EVENTS]", b"CPU:3 [LOST EVENTS]", b"# entries-in-buffer/entries-written: 5/8   #P:2"]
        result = imported_trace(trace_text([*START, *(Raw(line) for line in lines)]))
        assert [(e.count, e.affects) for e in result.events if isinstance(e, Lost)] == [(n, "everything") for n in (12, None, 3)]
        assert result.trailer.total("lost") == 16

    def test_role_bits(self) -> None:
        """That the text has no smm and no guest_mode is said once a VM, that level 5 may be passthrough each time."""
        inside = [Page(0, made=True, gfn=1, level=5), Page(0, made=True, gfn=2, level=5)]
        result = imported_trace(trace_text(items_of([(100, inside, False)])))
        assert (result.count(ROLE_BITS), result.count(LEVEL_5)) == (1, 2)
        assert result.trailer.total("unknown") == 2

    def test_nobody(self) -> None:
        """Pages of a thread that never made a call are a loss of shadow pages, marked once."""
        result = imported_trace(trace_text([*START, Page(300, made=True, gfn=1), Page(300, made=True, gfn=2)]))
        assert [(e.what, e.affects) for e in result.events if isinstance(e, Lost)] == [(AMBIGUOUS, "shadow_pages")]
        assert result.count(AMBIGUOUS) == 2

    def test_events_by_name(self) -> None:
        """Events that change nothing here are counted by name; page events in unknown words are not understood."""
        line = b"           guest-100     [000] ...1. 1.000000: "
        text = line + b"kvm_mmu_zap_all_fast: kvm-mmu-valid-gen 1 used_pages 4\n" + line + b"kvm_exit: reason HLT\n"
        text += line + b"kvm_mmu_get_page: new sp gfn 83d 2 q0 wux !pae nxe wp root 0 sync\n"
        result = imported_trace(trace_text(START) + text)
        assert (result.count("event kvm_mmu_zap_all_fast"), result.count("event kvm_exit")) == (1, 1)
        assert result.count("damaged kvm_mmu_get_page") == 1

    def test_no_trace(self) -> None:
        """Text that never becomes a trace is refused."""
        with pytest.raises(TraceSyntaxError, match="none is a trace line"):
            imported_trace(b"hello\n" * 300)

    def test_no_kvm(self) -> None:
        """A trace without anything of KVM is nothing to judge."""
        line = PLAIN.line(100, 10**18 * 2, b"sched_wakeup: comm=x pid=1")
        for text in (b"", b"# tracer: nop\n#\n", line):
            with pytest.raises(EmptyError, match="no KVM call and no page"):
                imported_trace(text)

    def test_complete_start(self) -> None:
        """A trace whose VM was there before, or that was overwritten, says that its beginning is missing."""
        whole = trace_text(START)
        cases = (whole, whole.split(b"\n", 2)[2], b"# entries-in-buffer/entries-written: 5/8   #P:2\n" + whole)
        assert [TracefsImport([text]).header.complete_start for text in cases] == [True, False, False]


class TestDamage:
    """Damaged text is counted or refused, never a traceback."""

    @settings(deadline=None, max_examples=60)
    @given(st.integers(0, 2**32), st.sampled_from(["pd-delete", "runsc-echo", "two-shadow-vms"]), st.booleans())
    def test_any_damage(self, tmp_path_factory: pytest.TempPathFactory, seed: int, name: str, beside: bool) -> None:
        """Bytes changed, lines cut, doubled, dropped and swapped: events come out, or an error of ours."""
        chance = random.Random(seed)
        folder = tmp_path_factory.mktemp("damage")
        paths = [folder / "ftrace.txt"]
        paths[0].write_bytes(damaged((DATA / f"{name}.ftrace.txt").read_bytes(), chance))
        if beside:
            paths.append(folder / "strace.txt")
            paths[1].write_bytes(damaged((DATA / f"{name}.strace.txt").read_bytes(), chance))
        with suppress(KvmReplayError):
            stream = open_stream([str(path) for path in paths])
            events = list(events_of(stream.items()))
            assert stream.trailer().events == len(events)

    @given(st.binary(max_size=300))
    def test_any_bytes(self, data: bytes) -> None:
        """Arbitrary bytes between good lines change nothing of what the good lines say, except that they may be losses."""
        good = trace_text(items_of([(101, [Page(0, made=True, gfn=1)], False)]))
        noise = b"\n".join(b"?" + line for line in data.split(b"\n"))
        events = imported_trace(noise + b"\n" + good).kinds()
        assert [kind for kind in events if kind != "lost"][-2:] == ["shadow_root.alloc", "shadow_page.account 1"]


def damaged(text: bytes, chance: random.Random) -> bytes:
    """Return text with some lines damaged."""
    lines = text.split(b"\n")
    for _ in range(chance.randrange(1, 12)):
        place = chance.randrange(len(lines))
        how = chance.randrange(6)
        line = bytearray(lines[place])
        if how == 0 and line:
            line[chance.randrange(len(line))] = chance.randrange(256)
            lines[place] = bytes(line)
        elif how == 1:
            lines[place] = bytes(line[: chance.randrange(len(line) + 1)])
        elif how == 2:
            lines.insert(place, lines[chance.randrange(len(lines))])
        elif how == 3 and len(lines) > 1:
            del lines[place]
        elif how == 4:
            other = chance.randrange(len(lines))
            lines[place], lines[other] = lines[other], lines[place]
        else:
            lines[place] = lines[place].replace(b"0x", b"0x" + b"f" * chance.randrange(30), 1)
    return b"\n".join(lines)


class TestInputs:
    """Compressed traces."""

    @pytest.mark.parametrize("suffix", ["zst", "gz", "xz"])
    def test_compressed(self, tmp_path: Path, suffix: str) -> None:
        """Compressed files of both kinds give what the plain ones give."""
        packers = {"zst": zstandard.ZstdCompressor().compress, "gz": gzip.compress, "xz": lzma.compress}
        plain, packed = [], []
        for kind in ("strace", "ftrace"):
            path = DATA / f"lm-mode3.{kind}.txt"
            plain.append(str(path))
            packed.append(str(tmp_path / f"{kind}.{suffix}"))
            Path(packed[-1]).write_bytes(packers[suffix](path.read_bytes()))
        assert list(events_of(open_stream(packed).items())) == list(events_of(open_stream(plain).items()))
