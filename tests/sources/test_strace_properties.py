"""Generated runs of a VMM, rendered as strace text under several option sets, give the same events; damage never escapes."""

from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from strace_texts import EXCERPTS, Imported, bare, imported

from replay.errors import KvmReplayError
from replay.events import MemslotSet, VmCreate, VmDestroy
from replay.sources.strace_args import MEM_FLAGS

NAMES = {bits: name for name, bits in MEM_FLAGS.items()}


@attrs.frozen
class Call:
    """One call of a generated run: who, what, and what came of it."""

    tid: int
    what: str
    number: int = 0
    slot: int = 0
    flags: int = 0
    gpa: int = 0
    pages: int = 0
    ret: int = 0


@attrs.frozen
class Style:
    """Options of strace: notes (-y), raw numbers (-X raw), stamps (-ttt), durations (-T), split calls."""

    notes: bool = False
    raw: bool = False
    stamps: bool = False
    durations: bool = False
    split: bool = False


def word(flags: int, style: Style) -> str:
    """Return a flag word."""
    if style.raw or not flags:
        return f"{flags:#x}" if flags else "0"
    names = [name for bits, name in NAMES.items() if flags & bits]
    rest = flags & ~sum(NAMES)
    return "|".join([*names, f"{rest:#x}"] if rest else names)


def body(call: Call, style: Style) -> tuple[str, str]:
    """Return a call's arguments and its result, with notes where the style has them."""
    vm = f"{call.number}<anon_inode:kvm-vm>" if style.notes else str(call.number)
    kvm = "3</dev/kvm>" if style.notes else "3"
    if call.what == "create":
        return f"ioctl({kvm}, {'0xae01' if style.raw else 'KVM_CREATE_VM'}, 0", vm
    if call.what == "close":
        return f"close({vm}", "0"
    if call.what == "ask":
        return f"ioctl({vm}, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS", "32764"
    gpa, hva = f"{call.gpa:#x}" if call.gpa else "0", f"{call.gpa + (1 << 32):#x}"
    size = call.pages * 4096
    place = f"guest_phys_addr={gpa}, memory_size={size}, userspace_addr={hva}"
    struct = f"{{slot={call.slot}, flags={word(call.flags, style)}, {place}}}"
    command = "0x4020ae46" if style.raw else "KVM_SET_USER_MEMORY_REGION"
    return f"ioctl({vm}, {command}, {struct}", "0" if call.ret == 0 else "-1 EEXIST (File exists)"


def rendered(calls: list[Call], style: Style) -> str:
    """Return the text of a run: tasks 11 and 12 are threads of 10."""
    out = ["10 {}clone(flags=CLONE_VM|CLONE_FILES|CLONE_THREAD) = " + str(tid) for tid in (11, 12)]
    for call in calls:
        args, result = body(call, style)
        tail = f") = {result}{' <0.000100>' if style.durations and style.stamps and not style.split else ''}"
        if style.split:
            out += [
                f"{call.tid} {{}}{args.replace('{', '{{').replace('}', '}}')} <unfinished ...>",
                f"{call.tid} {{}}<... {args.split('(', 1)[0]} resumed>{tail}",
            ]
        else:
            out.append(f"{call.tid} {{}}{args.replace('{', '{{').replace('}', '}}')}{tail}")
    stamps = (f"1795343273.{us:06} " if style.stamps else "" for us in range(len(out)))
    return "".join(f"{line.format(stamp)}\n" for line, stamp in zip(out, stamps, strict=True))


def read(text: bytes) -> Imported:
    """Import text."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "strace.txt"
        path.write_bytes(text)
        return imported(path)


@st.composite
def runs(draw: st.DrawFn) -> list[Call]:
    """Draw the calls of a VMM that creates VMs, changes their slots, asks and closes them."""
    calls: list[Call] = []
    live: list[int] = []
    for _ in range(draw(st.integers(1, 25))):
        tid = draw(st.sampled_from([10, 11, 12]))
        what = draw(st.sampled_from(["create", "close", "ask", "set", "set", "set"])) if live else "create"
        if what == "create":
            number = min(set(range(4, 60)) - set(live))
            live.append(number)
            calls.append(Call(tid, what, number))
            continue
        number = draw(st.sampled_from(live))
        if what == "close":
            live.remove(number)
        slot, pages, gfn = draw(st.integers(0, 70000)), draw(st.integers(0, 1 << 20)), draw(st.integers(0, (1 << 40) - 1))
        ret = draw(st.sampled_from([0, 0, -17]))
        calls.append(Call(tid, what, number, slot, draw(st.sampled_from([0, 1, 2, 3, 9, 8])), gfn << 12, pages, ret))
    return calls


styles = st.builds(
    Style, notes=st.booleans(), raw=st.booleans(), stamps=st.booleans(), durations=st.booleans(), split=st.booleans()
)


class TestRenderings:
    """One run, many renderings."""

    @settings(max_examples=150, deadline=None)
    @given(runs(), styles)
    def test_events_are_the_calls(self, calls: list[Call], style: Style) -> None:
        """Every create, memslot call and end comes out as it was done, on the right VM, with its arguments exact."""
        got = read(rendered(calls, style).encode())
        vms: dict[int, int] = {}
        expected: list[tuple[object, ...]] = []
        for call in calls:
            if call.what == "create":
                vms[call.number] = sum(1 for kind, *_ in expected if kind == "create")
                expected.append(("create", vms[call.number]))
            elif call.what == "close":
                expected.append(("end", vms.pop(call.number), "close", False))
            elif call.what == "set":
                expected.append(("set", vms[call.number], call.tid, call.slot, call.flags, call.gpa, call.pages * 4096, call.ret))
        found: list[tuple[object, ...]] = []
        for event in got.events:
            if isinstance(event, VmCreate):
                found.append(("create", event.vm))
            elif isinstance(event, VmDestroy):
                found.append(("end", event.vm, event.reason, event.foreign_mm))
            elif isinstance(event, MemslotSet):
                assert event.task is not None
                assert (event.task.pid, event.foreign_mm) == (10, False)
                size, gpa = event.memory_size, event.guest_phys_addr
                found.append(("set", event.vm, event.task.tid, event.slot, event.flags, gpa, size, event.ret))
        assert found == expected

    @settings(max_examples=60, deadline=None)
    @given(runs(), styles, styles)
    def test_styles_agree(self, calls: list[Call], one: Style, other: Style) -> None:
        """Two renderings differ in nothing but times and places."""
        first, second = (bare(read(rendered(calls, style).encode()).events) for style in (one, other))
        assert [event for event in first if event.KIND != "lost"] == [event for event in second if event.KIND != "lost"]


TEXTS = [path.read_bytes() for path in sorted(EXCERPTS.glob("*.txt")) if path.stat().st_size < 10_000]


class TestDamage:
    """Whatever is done to a recording's bytes, the import ends with events or with an error of this tool's own."""

    @settings(max_examples=250, deadline=None)
    @given(st.data())
    def test_nothing_else_is_raised(self, data: st.DataObject) -> None:
        """Flips, cuts, doublings and noise raise nothing but KvmReplayError, and numbers stay within what events hold."""
        text = bytearray(data.draw(st.sampled_from(TEXTS)))
        for _ in range(data.draw(st.integers(1, 6))):
            start = data.draw(st.integers(0, len(text)))
            end = min(len(text), start + data.draw(st.integers(0, 200)))
            noise = st.text("0123456789abcdefx<>(){}[]=,|?+-. \n", max_size=40).map(str.encode)
            other = data.draw(st.sampled_from(TEXTS))
            place = data.draw(st.integers(0, len(other)))
            piece = st.just(other[place : place + 300])
            text[start:end] = data.draw(st.one_of(st.binary(max_size=20), noise, piece, st.just(bytes(text[start:end]) * 2)))
        try:
            got = read(bytes(text))
        except KvmReplayError:
            return
        for event in got.events:
            assert event.time_ns is None or 0 <= event.time_ns < 1 << 63
            if isinstance(event, MemslotSet):
                assert event.ret is None or -(1 << 63) <= event.ret < 1 << 63
                assert 0 <= event.slot < 1 << 32
                assert 0 <= event.flags < 1 << 32
                assert all(0 <= value < 1 << 64 for value in (event.guest_phys_addr, event.memory_size, event.userspace_addr))
