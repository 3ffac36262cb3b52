"""Promises that hold for every format with role words: one run, printed by each tool, is one recording."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_texts import Enter, Exit, Imported, Item, Page, Raw, memslot, run, vm
from word_texts import RENDERERS, imported_words, role_word

from replay.errors import EmptyError, KvmReplayError, TraceOptionError, TraceSyntaxError
from replay.events import HotEvent, Lost, MemslotSet, Opaque, ShadowRootAlloc
from replay.runs import ACCOUNT, UNACCOUNT
from replay.sources import FACTORIES, WORDS, ioctls
from replay.sources.detect import FORMATS, detect
from replay.sources.dialect_table import DIALECTS
from replay.sources.tracefs_pages import AMBIGUOUS, ROLE_BITS, UNSEEN
from replay.sources.word_walk import NO_ZAPS, ZAPLESS_MIN, WordImport

DATA = Path(__file__).resolve().parent.parent / "data" / "formats"
RUN: list[Item] = [
    *vm(100, 4, vcpu_fd=5),
    run(100, 5),
    Page(100, made=True, gfn=1, level=4),
    Page(100, made=True, gfn=0x8B0),
    Page(100, made=True, gfn=0, level=1, direct=True),
    Page(100, made=True, gfn=0x8B0, existing=True),
    Page(100, made=False, gfn=0x8B0),
    Exit(100),
    memslot(100, 4, 0, 0, 0),
    Page(100, made=False, gfn=1, level=4),
    Exit(100),
    Page(100, made=False, gfn=1, level=4, invalid=True),
]
PAGES = [
    "shadow_root.alloc",
    "shadow_page.account 1",
    "shadow_page.account 8b0",
    "shadow_page.unaccount 8b0",
    "shadow_page.unaccount 1",
]


def opaque_or_not(result: Imported) -> list[str]:
    """Return the kinds of all events, memslot calls as such whether their arguments are known or not."""
    return [
        "memslot.set" if isinstance(e, Opaque) and "REGION" in e.name else k
        for e, k in zip(result.events, result.kinds(), strict=True)
    ]


@pytest.fixture(params=RENDERERS)
def way(request: pytest.FixtureRequest) -> tuple[str, Callable[[Sequence[Item]], str]]:
    """Each way of printing: the format, and the renderer."""
    return RENDERERS[request.param]


Way = tuple[str, Callable[[Sequence[Item]], str]]


class TestTable:
    """The table of dialects."""

    def test_names(self) -> None:
        """Each dialect has a format's name, an opener, and a renderer in these tests."""
        assert tuple(DIALECTS) == WORDS == tuple(dict.fromkeys(name for name, _ in RENDERERS.values()))
        assert set(WORDS) <= set(FORMATS)
        assert {(name,) for name in WORDS} <= set(FACTORIES)


class TestEachTool:
    """One made-up run."""

    def test_recognised(self, way: Way) -> None:
        """The text is recognised as what it is."""
        name, render = way
        assert detect(render(RUN).encode()) == name

    def test_same_events(self, way: Way) -> None:
        """Every tool gives the same events in the same order: direct, repeated and invalid pages do not count."""
        name, render = way
        kinds = opaque_or_not(imported_words(render(RUN), name))
        assert kinds == ["vm.create", "memslot.set", "vcpu.create", *PAGES, "memslot.set"]

    def test_rows(self, way: Way) -> None:
        """Pages carry level, VM, task and, where the tool prints it, the process."""
        name, render = way
        rows = [event for event in imported_words(render(RUN), name).events if isinstance(event, HotEvent)]
        assert [(row.CODE, row.gfn, row.level, row.as_id, row.nested, row.vm) for row in rows] == [
            (ACCOUNT, 1, 4, 0, False, 0),
            (ACCOUNT, 0x8B0, 2, 0, False, 0),
            (UNACCOUNT, 0x8B0, 2, 0, False, 0),
            (UNACCOUNT, 1, 4, 0, False, 0),
        ]
        assert {row.task.tid for row in rows if row.task} == {100}
        times = [row.time_ns for row in rows if row.time_ns is not None]
        assert len(times) == 4
        assert times == sorted(times)

    def test_nothing_unknown(self, way: Way) -> None:
        """Nothing of the run is lost or not understood; perf trace says what it leaves out."""
        name, render = way
        trailer = imported_words(render(RUN), name).trailer
        assert trailer.total("unknown") == 0
        assert [counter.kind for counter in trailer.counters if counter.severity == "lost"] == (
            [DIALECTS[name].lossy] if DIALECTS[name].lossy else []
        )
        assert ROLE_BITS not in [counter.kind for counter in trailer.counters]

    def test_results(self, way: Way) -> None:
        """A failed call has its errno."""
        name, render = way
        items = [*vm(100, 4, vcpu_fd=5), memslot(100, 4, 1, 0x4000, 16), Exit(100, -22)]
        last = imported_words(render(items), name).events[-1]
        assert isinstance(last, (MemslotSet, Opaque))
        assert last.ret == -22

    def test_zap_without_creation(self, way: Way) -> None:
        """A page that goes and never came is counted as lost."""
        name, render = way
        items = [*vm(100, 4, vcpu_fd=5), run(100, 5), Page(100, made=False, gfn=9), Exit(100)]
        assert imported_words(render(items), name).count(UNSEEN) == 1

    def test_no_vm(self, way: Way) -> None:
        """A page of a thread that has no VM is no event: a loss of shadow pages is marked, and it is counted."""
        name, render = way
        result = imported_words(render([Page(100, made=True, gfn=9), Page(100, made=True, gfn=10)]), name)
        assert [event.affects for event in result.events if isinstance(event, Lost)] == ["shadow_pages"]
        assert result.count(AMBIGUOUS) == 2

    def test_last_line_cut(self, way: Way) -> None:
        """A text that stops inside a line says so, and gives all before it."""
        name, render = way
        text = render(RUN)[:-30]
        result = imported_words(text, name)
        assert opaque_or_not(result)[:3] == ["vm.create", "memslot.set", "vcpu.create"]
        assert result.trailer.total("lost") + result.trailer.total("unknown") - bool(DIALECTS[name].lossy) == 1

    def test_windows_line_ends(self, way: Way) -> None:
        """CRLF changes nothing."""
        name, render = way
        text = render(RUN)
        assert imported_words(text.replace("\n", "\r\n"), name).kinds() == imported_words(text, name).kinds()

    def test_pieces(self, way: Way) -> None:
        """How the bytes are cut into pieces changes nothing."""
        name, render = way
        data = render(RUN).encode()
        stream = WordImport((data[place : place + 7] for place in range(0, len(data), 7)), DIALECTS[name], name="trace.txt")
        assert len(list(stream.items())) == len(list(WordImport([data], DIALECTS[name]).items()))
        assert stream.trailer().total("unknown") == 0

    def test_odd_line_is_counted(self, way: Way) -> None:
        """A line that the tool does not print is counted with its place."""
        name, render = way
        result = imported_words(render([*RUN[:7], Raw(b"warning: something"), *RUN[7:]]), name)
        (counter,) = [c for c in result.trailer.counters if c.severity == "unknown"]
        assert counter.kind == "line not understood"
        assert counter.first.startswith("trace.txt:")

    def test_bad_page_is_counted(self, way: Way) -> None:
        """A page event with a role that no KVM makes is counted as damaged, and no event."""
        name, render = way
        items = [*RUN[:8], Page(100, made=True, gfn=0x77, level=9), *RUN[8:]]
        result = imported_words(render(items), name)
        assert result.count("damaged ") == 1
        assert opaque_or_not(result) == opaque_or_not(imported_words(render(RUN), name))

    def test_no_text_of_the_tool(self, way: Way) -> None:
        """A hundred lines of something else are refused."""
        name, _ = way
        with pytest.raises(TraceSyntaxError, match="lines of which none"):
            imported_words("what is this\n" * 150, name)

    def test_nothing_of_kvm(self, way: Way) -> None:
        """A trace without KVM is nothing to judge."""
        name, render = way
        with pytest.raises(EmptyError):
            imported_words(render([Enter(100, 3, 0x5401), Exit(100)]) + "\n", name)


class TestRoles:
    """What the whole word tells."""

    def text(self, word: int) -> str:
        """Return a VM's beginning and one page of a role, as bpftrace prints it."""
        render = RENDERERS["bpftrace"][1]
        page = Page(100, made=True, gfn=0x10)
        return render([*RUN[:8], page]).replace(f"role={role_word(page):x}", f"role={word:x}")

    def test_smm_is_the_address_space(self) -> None:
        """With smm set: address space 1."""
        (row,) = [e for e in imported_words(self.text(0x01003702), "bpftrace").events if isinstance(e, HotEvent)]
        assert (row.as_id, row.nested, row.level) == (1, False, 2)

    def test_guest_mode_is_nested(self) -> None:
        """With guest_mode set: the page, and the root before it, are an L2 guest's."""
        events = imported_words(self.text(0x00023702), "bpftrace").events
        assert [e.nested for e in events if isinstance(e, (HotEvent, ShadowRootAlloc))] == [True, True]

    def test_passthrough_never_counts(self) -> None:
        """With passthrough set: no event, but a count."""
        result = imported_words(self.text(0x00043705), "bpftrace")
        assert not [e for e in result.events if isinstance(e, HotEvent)]
        assert result.count("kvm_mmu_get_page passthrough") == 1

    def test_both_spaces_in_one_run(self) -> None:
        """Pages of two spaces keep theirs when they stand next to each other."""
        lines = self.text(0x3702).splitlines()
        other = lines[-1].replace("role=3702", "role=1003702")
        rows = [
            e for e in imported_words("\n".join([*lines, other, lines[-1], ""]), "bpftrace").events if isinstance(e, HotEvent)
        ]
        assert [row.as_id for row in rows] == [0, 1, 0]


class TestNoZaps:
    """A trace without the event of zaps."""

    def test_many_pages_and_no_zap(self) -> None:
        """A thousand pages made and none zapped: the event was not recorded, and that is a loss."""
        name, render = RENDERERS["bpftrace"]
        pages: list[Item] = [Page(100, made=True, gfn=gfn) for gfn in range(ZAPLESS_MIN)]
        assert imported_words(render([*RUN[:8], *pages]), name).count(NO_ZAPS) == 1
        assert imported_words(render([*RUN[:8], *pages[1:]]), name).count(NO_ZAPS) == 0
        assert imported_words(render([*RUN[:8], *pages, Page(100, made=False, gfn=1)]), name).count(NO_ZAPS) == 0


class TestDamage:
    """Damaged copies of real text: only errors of this tool, everything counted."""

    @pytest.mark.parametrize(
        "path", sorted(p.name for p in DATA.glob("*.txt") if "vmalloc" not in p.name and "plugin" not in p.name)
    )
    @settings(max_examples=25, deadline=None)
    @given(data=st.data())
    def test_damaged_copies(self, path: str, data: st.DataObject) -> None:
        """Bytes changed, lines cut and shuffled: an import ends, or raises what it says it raises."""
        text = bytearray((DATA / path).read_bytes())
        for _ in range(data.draw(st.integers(1, 12))):
            place = data.draw(st.integers(0, len(text) - 1))
            match data.draw(st.sampled_from(("byte", "cut", "repeat"))):
                case "byte":
                    text[place] = data.draw(st.integers(0, 255))
                case "cut":
                    del text[place : place + data.draw(st.integers(1, 200))]
                case "repeat":
                    text[place:place] = text[place : place + 100]
            text = text or bytearray(b"\n")
        name = detect((DATA / path).read_bytes())
        try:
            result = imported_words(bytes(text), name)
        except KvmReplayError:
            return
        assert result.trailer.events == len(result.events)

    def test_plugin_text_is_refused(self) -> None:
        """What trace-cmd's KVM plugin prints is refused with the option that helps, also when it comes late."""
        text = (DATA / "pd.trace-cmd-plugin.txt").read_bytes()
        with pytest.raises(TraceOptionError, match="report -R"):
            imported_words(text, detect(text))
        late = b"cpus=2\n" + b"   a-1 [000] 1.000001: sched_switch: x\n" * 20000 + text
        with pytest.raises(TraceOptionError, match="report -R"):
            imported_words(late, "trace-cmd report")


class TestRealText:
    """Excerpts of real recordings."""

    @pytest.mark.parametrize(
        ("path", "accounts", "unaccounts"),
        [
            ("pd.bpftrace.txt", 32, 32),
            ("pd.bpftrace.json", 33, 33),
            ("pd.perf-script.txt", 33, 30),
            ("pd.perf-script-ns.txt", 0, 0),
            ("pd.perf-trace.txt", 23, 0),
            ("pd.ctf.txt", 36, 33),
            ("boot.bpftrace.txt", 0, 0),
            ("roles.bpftrace.txt", 48, 48),
        ],
    )
    def test_numbers(self, path: str, accounts: int, unaccounts: int) -> None:
        """Pages of each excerpt, and nothing that is not understood."""
        text = (DATA / path).read_bytes()
        result = imported_words(text, detect(text))
        codes = [event.CODE for event in result.events if isinstance(event, HotEvent)]
        assert (codes.count(ACCOUNT), codes.count(UNACCOUNT)) == (accounts, unaccounts)
        assert result.trailer.total("unknown") == 0

    def test_boot(self) -> None:
        """A boot has its memslots with arguments."""
        text = (DATA / "boot.bpftrace.txt").read_bytes()
        slots = [event for event in imported_words(text, "bpftrace").events if isinstance(event, MemslotSet)]
        assert len(slots) == 35
        assert sum(slot.memory_size == 0 for slot in slots) == 13
        assert all(
            slot.enter_time_ns is not None and slot.time_ns is not None and slot.enter_time_ns < slot.time_ns for slot in slots
        )

    def test_deletion_behind_its_zaps(self) -> None:
        """The zaps between the entry and the exit of a DELETE come before it."""
        kinds = imported_words((DATA / "pd.bpftrace.txt").read_bytes(), "bpftrace").kinds()
        first = [place for place, kind in enumerate(kinds) if kind == "memslot.set"][4]
        assert kinds[first - 3 : first] == ["shadow_page.unaccount 1", "shadow_page.unaccount 2", "shadow_page.unaccount 3"]

    def test_one_cmd_without_effect(self) -> None:
        """Calls without an effect are counted by name."""
        text = (DATA / "boot.bpftrace.txt").read_bytes()
        assert imported_words(text, "bpftrace").count(ioctls.ioctl_name(ioctls.KVM_CREATE_DEVICE)) == 0
        assert imported_words(text, "bpftrace").count("KVM_SET_MSRS") == 8
