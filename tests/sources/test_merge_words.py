"""Promises of the merge of strace with recordings that print role words, and of several recordings of one run."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from run_texts import BASE_NS, Body, Enter, Exit, Imported, Item, Page, memslot, merged, run, strace_text, threads, trace_text, vm
from word_texts import RENDERERS

from replay.errors import PairingError, UsageError
from replay.events import HotEvent, MemslotSet, Opaque
from replay.runs import events_of
from replay.sources import TRACES, open_stream
from replay.sources.files import Input
from replay.sources.ioctls import KVM_GET_DIRTY_LOG, KVM_SET_USER_MEMORY_REGION2
from replay.sources.memslot_places import region
from replay.sources.merge_calls import ARGUMENT_DIFFERS, RET_DIFFERS, fill_argument
from replay.sources.strace_feed import ONLY_STRACE
from replay.sources.syscalls import Syscall
from replay.sources.word_walk import PLUGIN

Way = tuple[str, Callable[[Sequence[Item]], str]]
RUN: list[Item] = [
    *vm(100, 4, vcpu_fd=5),
    *threads(100, 101),
    run(101, 5),
    Page(101, made=True, gfn=0x10, level=4),
    Page(101, made=True, gfn=0x11),
    Exit(101),
    memslot(100, 4, 1, 0x4000, 16),
    Exit(100, -22),
    memslot(100, 4, 0, 0, 0),
    Page(100, made=False, gfn=0x11),
    Page(100, made=False, gfn=0x10, level=4),
    Exit(100),
    Body(100, "close(5) = 0"),
    Body(100, "close(4) = 0"),
]
EXPECTED = [
    "vm.create",
    "memslot.set",
    "vcpu.create",
    "shadow_root.alloc",
    "shadow_page.account 10",
    "shadow_page.account 11",
    "memslot.set",
    "shadow_page.unaccount 11",
    "shadow_page.unaccount 10",
    "memslot.set",
    "vm.destroy",
]


def together(folder: Path, *texts: str) -> Imported:
    """Import several recordings as one run, in files of their own."""
    for place, text in enumerate(texts):
        (folder / f"{place}.txt").write_text(text)
    stream = open_stream([str(folder / f"{place}.txt") for place in range(len(texts))])
    return Imported(list(events_of(stream.items())), stream.trailer())


@pytest.fixture(params=RENDERERS)
def way(request: pytest.FixtureRequest) -> Way:
    """Each way of printing: the format, and the renderer."""
    return RENDERERS[request.param]


class TestWithStrace:
    """A strace and one other recording."""

    def test_same_as_tracefs(self, tmp_path: Path, way: Way) -> None:
        """Whatever tool it is, arguments and lives come from strace, pages and places from the other."""
        result = together(tmp_path, strace_text(RUN), way[1](RUN))
        assert result.kinds() == EXPECTED
        assert result.kinds() == merged(tmp_path, RUN).kinds()
        slots = [event for event in result.events if isinstance(event, MemslotSet)]
        assert [(slot.slot, slot.memory_size, slot.ret) for slot in slots] == [(0, 1 << 22, 0), (1, 1 << 16, -22), (0, 0, 0)]

    def test_nothing_unknown(self, tmp_path: Path, way: Way) -> None:
        """Both are understood in full."""
        trailer = together(tmp_path, strace_text(RUN), way[1](RUN)).trailer
        assert trailer.total("unknown") == 0
        assert trailer.total("lost") == (way[0] == "perf trace")

    def test_without_stamps(self, tmp_path: Path, way: Way) -> None:
        """Without a common clock calls are paired by their order in each thread."""
        assert together(tmp_path, strace_text(RUN, stamps=False), way[1](RUN)).kinds() == EXPECTED

    def test_another_run(self, tmp_path: Path, way: Way) -> None:
        """Two recordings of different runs are refused."""
        other = strace_text(RUN).replace("100 ", "900 ").replace("101 ", "901 ")
        with pytest.raises(PairingError):
            together(tmp_path, other, way[1](RUN))

    def test_results_differ(self, tmp_path: Path, way: Way) -> None:
        """A call with different results is counted."""
        strace = strace_text(RUN).replace("-1 EINVAL (Invalid argument)", "-1 EEXIST (File exists)")
        assert together(tmp_path, strace, way[1](RUN)).count(RET_DIFFERS) == 1

    def test_call_that_only_strace_has(self, tmp_path: Path, way: Way) -> None:
        """A call that the other lacks is there, and counted."""
        more = [*RUN[:-2], Enter(100, 4, KVM_GET_DIRTY_LOG, "0x7ffc00"), Exit(100), memslot(100, 4, 0, 0, 4), Exit(100)]
        less = [*RUN[:-2], memslot(100, 4, 0, 0, 4), Exit(100)]
        moved = way[1]([*less[:-2], Body(100, ""), Body(100, ""), *less[-2:]])  # the same times
        result = together(tmp_path, strace_text(more), moved)
        assert result.kinds()[-2:] == ["dirty_log.get", "memslot.set"]
        assert result.count(ONLY_STRACE) == 1

    def test_role_words(self, tmp_path: Path) -> None:
        """The address space comes through the merge."""
        text = RENDERERS["bpftrace"][1](RUN).replace("role=3702", "role=1003702")
        rows = [event for event in together(tmp_path, strace_text(RUN), text).events if isinstance(event, HotEvent)]
        assert [row.as_id for row in rows] == [0, 1, 1, 0]

    def test_plugin_text(self, tmp_path: Path) -> None:
        """The text of trace-cmd's plugin is refused here as well."""
        text = "cpus=2\n  guest-100 [000]  1847.163267: kvm_mmu_get_page:     new sp gfn 83d 2 q0 wux !pae nxe wp root 0 sync\n"
        with pytest.raises(Exception, match=PLUGIN[:40].replace("(", "").upper()[0] + PLUGIN[1:20]):
            together(tmp_path, strace_text(RUN), text)


class TestArguments:
    """Arguments that strace lacks."""

    def test_region2(self, tmp_path: Path) -> None:
        """KVM_SET_USER_MEMORY_REGION2, a pointer in strace, gets its struct from bpftrace."""
        call = Enter(100, 4, KVM_SET_USER_MEMORY_REGION2, "0x7ffc00", 0x7FFC00)
        items = [*vm(100, 4, vcpu_fd=5), call, Exit(100)]
        strace = strace_text(items)
        assert isinstance(together(tmp_path, strace, trace_text(items).decode()).events[-1], Opaque)
        ns = BASE_NS + 7 * 100_000
        words = "w=100000002,3000,2000,7f0000000000,0,0"
        line = f"{ns} 100 100 guest ENTER fd=4 cmd=40a0ae49 arg=7ffc00 {words}\n"
        bpftrace = RENDERERS["bpftrace"][1](items).splitlines(keepends=True)
        event = together(tmp_path, strace, "".join([*bpftrace[:-1], line, bpftrace[-1]])).events[-1]
        assert isinstance(event, MemslotSet)
        assert (event.slot, event.flags, event.guest_phys_addr, event.memory_size, event.region2) == (2, 1, 0x3000, 0x2000, True)

    def test_conflict(self, tmp_path: Path) -> None:
        """Where both have the struct and they differ, it is counted, and strace's is taken."""
        text = RENDERERS["bpftrace"][1](RUN).replace("slot=1 ", "slot=9 ")
        result = together(tmp_path, strace_text(RUN), text)
        assert result.count(ARGUMENT_DIFFERS) == 1
        assert [event.slot for event in result.events if isinstance(event, MemslotSet)] == [0, 1, 0]

    @pytest.mark.parametrize(
        ("args", "text", "after", "fits"),
        [
            ("4, KVM_X, 0x10", "{slot=1}", "4, KVM_X, {slot=1}", True),
            (
                "4<anon_inode:kvm-vm>, _IOC(_IOC_WRITE, 0xae, 0x49, 0xa0), 0x10",
                "{s=1}",
                "4<anon_inode:kvm-vm>, _IOC(_IOC_WRITE, 0xae, 0x49, 0xa0), {s=1}",
                True,
            ),
            ("4, KVM_X", "{slot=1}", "4, KVM_X", True),
            ("4, KVM_X, 0x10", "", "4, KVM_X, 0x10", True),
            ("4, KVM_X, {slot=1}", "{slot=2}", "4, KVM_X, {slot=1}", True),
        ],
    )
    def test_filling(self, args: str, text: str, after: str, *, fits: bool) -> None:
        """Only a pointer is filled in."""
        record = Syscall(1, "ioctl", args, 1)
        assert (fill_argument(record, text), record.args) == (fits, after)

    def test_filled_region(self) -> None:
        """What is filled in reads as strace's own; after EFAULT nothing is."""
        text = "{slot=1, flags=0x1, guest_phys_addr=0x1000, memory_size=8192, userspace_addr=0x7f00}"
        record = Syscall(1, "ioctl", "4, KVM_SET_USER_MEMORY_REGION2, 0x10", 1, ret=0)
        assert fill_argument(record, text)
        found = region(record)
        assert found is not None
        assert (found.slot, found.first, found.end) == (1, 1, 3)
        refused = Syscall(1, "ioctl", "4, KVM_SET_USER_MEMORY_REGION2, 0x10", 1, ret=-14)
        assert fill_argument(refused, text)
        assert refused.args.endswith("0x10")


class TestSeveral:
    """More than two recordings of one run."""

    def three(self, tmp_path: Path, ftrace: str, bpftrace: str) -> Imported:
        """Import strace, tracefs and bpftrace of one run."""
        return together(tmp_path, strace_text(RUN), ftrace, bpftrace)

    def test_agreeing(self, tmp_path: Path) -> None:
        """Three that agree are one recording, and nothing is in doubt."""
        result = self.three(tmp_path, trace_text(RUN).decode(), RENDERERS["bpftrace"][1](RUN))
        assert result.kinds() == EXPECTED
        assert result.trailer.total("unknown") == 0

    def test_sources(self, tmp_path: Path) -> None:
        """The header names all of them, whatever the order on the command line."""
        (tmp_path / "a").write_bytes(trace_text(RUN))
        (tmp_path / "b").write_text(RENDERERS["perf script"][1](RUN))
        (tmp_path / "c").write_text(strace_text(RUN))
        header = open_stream([str(tmp_path / name) for name in "abc"]).header
        assert [source.format for source in header.sources] == ["strace", "perf script", "tracefs"]
        assert [tool.name for tool in header.tools] == ["strace", "perf", "tracefs"]

    def test_without_strace(self, tmp_path: Path) -> None:
        """Two traces without a strace: the pages of the one that says more."""
        result = together(tmp_path, trace_text(RUN).decode(), RENDERERS["bpftrace"][1](RUN))
        assert [kind for kind in result.kinds() if "page" in kind] == [kind for kind in EXPECTED if "page" in kind]

    def test_pages_differ(self, tmp_path: Path) -> None:
        """A page that one of them lacks is counted with both numbers."""
        shorter = [item for item in RUN if not (isinstance(item, Page) and item.gfn == 0x11 and item.made)]
        result = self.three(tmp_path, trace_text(shorter).decode(), RENDERERS["bpftrace"][1](RUN))
        (counter,) = [c for c in result.trailer.counters if c.severity == "unknown"]
        assert (counter.kind, counter.first) == ("number of shadow pages made differs between 2.txt and 1.txt", "2 and 1")

    def test_calls_differ(self, tmp_path: Path) -> None:
        """So is a call that only one of them has, or that has another result there."""
        bpftrace = RENDERERS["bpftrace"][1](RUN)
        lines = bpftrace.splitlines(keepends=True)
        without = "".join(line for line in lines if "cmd=ae41" not in line)
        ftrace = trace_text(RUN).decode()
        assert (
            self.three(tmp_path, ftrace.replace("-> 0xffffffffffffffea", "-> 0xffffffffffffffef"), bpftrace).count(
                "results of calls differ"
            )
            == 1
        )
        assert self.three(tmp_path, ftrace, without.replace("ret=-22", "ret=-22")).trailer.total("unknown") >= 1

    def test_strangers(self, tmp_path: Path) -> None:
        """A trace of another run is told from one of this."""
        other = trace_text(RUN).decode().replace("guest-100 ", "guest-900 ").replace("guest-101 ", "guest-901 ")
        assert self.three(tmp_path, other, RENDERERS["bpftrace"][1](RUN)).count("no thread's calls are in both") == 1

    def test_two_of_one_format(self, tmp_path: Path) -> None:
        """Two traces of one format are refused."""
        with pytest.raises(UsageError, match="do not go together"):
            together(tmp_path, RENDERERS["bpftrace"][1](RUN), RENDERERS["bpftrace"][1](RUN))

    def test_rank(self) -> None:
        """Each trace format has its place in the ranking: perf trace, which leaves fields out, the last."""
        assert TRACES[-2:] == ("tracefs", "perf trace")
        assert len(set(TRACES)) == len(TRACES) == 7
        assert Input(__file__).name
