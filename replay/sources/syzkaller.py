"""Import syzkaller programs as scenarios: what they ask of KVM, without results, which the model has to give.

Each event is inferred: a program was written, not run. fail_nth becomes an injection before its call, and its end behind it.
Source of the language: syzkaller docs/program_syntax.md; of the calls sys/linux/dev_kvm.txt.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import attrs

from replay.errors import EmptyError
from replay.events import AllocFail, Event, Lost, MemslotSet, Source, Task, VmCreate, VmDestroy
from replay.header import Header, SourceFile, Tool, Trailer
from replay.runs import Item
from replay.sources import ioctls
from replay.sources.fdtable import KVM, MEMFD, VCPU, VM
from replay.sources.kvm_calls import MEMSLOT_CALLS, VM_CALLS
from replay.sources.struct_text import struct_text
from replay.sources.syz_lines import Call, Name, Pointer, Value, call_of
from replay.sources.tally import Tally

FORMAT: Final = "syzkaller"
RERUNS_MAX: Final = 1000
FAIL_NTH: Final = "fail_nth: syzkaller counts every allocation of the call, the injection here those of KVM's metadata"
ASYNC: Final = "call marked async: taken in the order of the program, though the next one may come first"
SETUP: Final = "syz_kvm_setup_cpu makes memslots that depend on the syzkaller release: not known"
_DUPS: Final = frozenset({"dup", "dup2", "dup3"})
_VM_MAKERS: Final = ("syz_kvm_setup_syzos_vm",)
_U64_MAX: Final = (1 << 64) - 1
_TASK: Final = Task(1, 1)


@attrs.define(eq=False)
class Held:
    """What a resource stands for: a file of KVM, of which several resources may be copies."""

    kind: str
    vm: int = -1
    copies: int = 1


class SyzImport:
    """A stream over one program. lines: its text. name: base name of the file. Raises EmptyError for one without a VM."""

    def __init__(self, lines: Iterable[str], *, name: str = "program.syz") -> None:
        self._lines, self._name, self._tally = lines, name, Tally()
        self._held: dict[str, Held] = {}
        self._alive: dict[int, int] = {}
        self._vms = self._events = 0
        self._source: Source | None = None
        self.header = Header(
            sources=(SourceFile(name=name[-255:], format=FORMAT),),
            tools=(Tool(name=FORMAT),),
            provenance="a syzkaller program: what is asked, without results",
        )

    def items(self) -> Iterator[Item]:
        """Yield the events of the calls in the program's order; VMs that are left go as the process exits."""
        for number, line in enumerate(self._lines, 1):
            self._source = Source(0, number)
            for event in self._line(line.strip(), number):
                self._events += 1
                yield event
        for vm in sorted(self._alive):
            self._events += 1
            yield VmDestroy(vm=vm, reason="exit", foreign_mm=True, inferred=True, task=_TASK, source=self._source)
        if not self._events:
            raise EmptyError("no call on KVM in the program", where=self._name, expected="ioctl$KVM_CREATE_VM and what follows")

    def trailer(self) -> Trailer:
        """Return the counts."""
        return Trailer(events=self._events, counters=self._tally.counters())

    def warnings(self) -> Sequence[str]:
        """Return that nothing of it was run."""
        return (f"{self._name}: a program has no results; those of the model are not held against anything",)

    def _line(self, line: str, number: int) -> Iterator[Event]:
        if not line or line.startswith("#"):
            return
        call = call_of(line)
        if call is None:
            self._count(number, "line not understood", "unknown")
            return
        known = {"fail_nth", "async", "rerun"}
        for word in sorted(call.properties.keys() - known):
            self._count(number, f"property {word}", "unknown")
        if "async" in call.properties:
            self._count(number, ASYNC, "unknown")
        times = min(call.properties.get("rerun", 0), RERUNS_MAX) + 1
        for _ in range(times):
            yield from self._injected(call, number)

    def _injected(self, call: Call, number: int) -> Iterator[Event]:
        nth = call.properties.get("fail_nth", 0)
        made = list(self._call(call, number))
        if not nth or not made:
            yield from made
            return
        self._count(number, FAIL_NTH, "ignored")
        vm: int = getattr(made[0], "vm", 0)
        common: dict[str, Any] = {"vm": vm, "inferred": True, "task": _TASK, "source": self._source}
        if isinstance(made[0], VmCreate):
            common["vm"] = None
        yield AllocFail(nth=nth, count=1, **common)
        yield from made
        yield AllocFail(nth=1, off=True, **common)

    def _call(self, call: Call, number: int) -> Iterator[Event]:
        if call.name == "openat" and call.variant == "kvm":
            self._make(call.makes, Held(KVM))
        elif call.name in _DUPS:
            self._dup(call)
        elif call.name == "close":
            yield from self._close(call)
        elif call.name == "ioctl":
            yield from self._ioctl(call, number)
        elif call.name.startswith(("syz_kvm_setup_cpu", *_VM_MAKERS)):
            yield from self._setup(call, number)
        else:
            self._count(number, f"call {call.name}", "ignored")

    def _make(self, name: str, held: Held) -> None:
        if name:
            self._held[name] = held

    def _file(self, value: Value) -> Held | None:
        return self._held.get(value.word) if isinstance(value, Name) else None

    def _dup(self, call: Call) -> None:
        held = self._file(call.args[0] if call.args else None)
        if held is not None and call.makes:
            held.copies += 1
            self._held[call.makes] = held

    def _close(self, call: Call) -> Iterator[Event]:
        name = call.args[0] if call.args else None
        held = self._held.pop(name.word, None) if isinstance(name, Name) else None
        if held is None:
            return
        held.copies -= 1
        if held.copies or held.vm not in self._alive:
            return
        self._alive[held.vm] -= 1
        if not self._alive[held.vm]:
            del self._alive[held.vm]
            yield VmDestroy(vm=held.vm, reason="close", inferred=True, task=_TASK, source=self._source)

    def _setup(self, call: Call, number: int) -> Iterator[Event]:
        held = self._file(call.args[0] if call.args else None)
        self._count(number, SETUP, "unknown")
        if held is not None and held.kind == VM:
            yield Lost(vm=held.vm, what=SETUP, inferred=True, task=_TASK, source=self._source)

    def _ioctl(self, call: Call, number: int) -> Iterator[Event]:
        cmd = self._command(call)
        held = self._file(call.args[0] if call.args else None)
        name = ioctls.ioctl_name(cmd) if cmd is not None else call.variant
        if cmd == ioctls.KVM_CREATE_VM and held is not None and held.kind == KVM:
            yield self._create(call)
        elif held is not None and held.kind == VM and cmd in VM_CALLS:
            yield self._vm_call(call, cmd, held)
        else:
            kind = f"{name} on an fd that is not a VM" if cmd in VM_CALLS else name
            self._count(number, kind or "ioctl", "ignored")

    @staticmethod
    def _command(call: Call) -> int | None:
        """Return the number of an ioctl: the argument decides, the variant where that says AUTO."""
        value = call.args[1] if len(call.args) > 1 else None
        if isinstance(value, int):
            return value & 0xFFFFFFFF
        return ioctls.NUMBERS.get(call.variant)

    def _create(self, call: Call) -> Event:
        vm, self._vms = self._vms, self._vms + 1
        self._alive[vm] = 1
        self._make(call.makes, Held(VM, vm))
        kind = call.args[2] if len(call.args) > 2 else 0
        return VmCreate(vm=vm, type=kind if isinstance(kind, int) and kind < 1 << 32 else 0, **self._base())

    def _vm_call(self, call: Call, cmd: int, held: Held) -> Event:
        arg = call.args[2] if len(call.args) > 2 else 0
        kind = {ioctls.KVM_CREATE_VCPU: VCPU, ioctls.KVM_CREATE_GUEST_MEMFD: MEMFD}.get(cmd)
        if kind is not None and call.makes:
            self._make(call.makes, Held(kind, held.vm))
            self._alive[held.vm] = self._alive.get(held.vm, 0) + 1
        if cmd in MEMSLOT_CALLS and arg in {0, Name("nil")}:
            return MemslotSet(vm=held.vm, fault=True, region2=cmd == ioctls.KVM_SET_USER_MEMORY_REGION2, **self._base())
        return VM_CALLS[cmd](cmd, self._argument(cmd, arg), {"vm": held.vm, **self._base()})

    def _argument(self, cmd: int, arg: Value) -> str:
        """Return the third argument as strace would print it: a struct, a number, or nothing that is known."""
        if isinstance(arg, int):
            return f"{arg & _U64_MAX:#x}"
        if isinstance(arg, Pointer):
            numbers = [self._number(value) for value in _flat(arg.to)]
            if all(number is not None for number in numbers):
                return _struct(cmd, [number or 0 for number in numbers])
        return "NULL" if arg == Name("nil") else "0x0"

    def _number(self, value: Value) -> int | None:
        """Return a number in a struct; an address for a pointer, a stand-in for an fd."""
        if isinstance(value, int):
            return value & _U64_MAX
        if isinstance(value, Pointer):
            return value.address
        if isinstance(value, Name) and value.word in self._held:
            return 0
        return None

    def _base(self) -> dict[str, Any]:
        return {"ret": None, "inferred": True, "task": _TASK, "source": self._source}

    def _count(self, number: int, kind: str, severity: str) -> None:
        self._tally.add(f"{self._name}:{number}", kind, severity)


def _flat(value: Value) -> list[Value]:
    """Return the members of a struct in order, those of structs in it as well; a padding string counts for nothing."""
    if not isinstance(value, tuple):
        return [value]
    return [leaf for member in value for leaf in _flat(member) if not isinstance(leaf, str)]


def _struct(cmd: int, numbers: list[int]) -> str:
    """Return the struct of a call as text from its members, in the order in which syzkaller's descriptions have them."""
    padded = [*numbers, *(0 for _ in range(8 - len(numbers)))]
    low, high = padded[0] & 0xFFFFFFFF, padded[1] & 0xFFFFFFFF
    first = high << 32 | low
    if cmd == ioctls.KVM_SET_IDENTITY_MAP_ADDR:
        return struct_text(cmd, [padded[0], 0, 0, 0, 0, 0])
    if cmd == ioctls.KVM_CREATE_GUEST_MEMFD:
        return struct_text(cmd, [padded[0], padded[1], 0, 0, 0, 0])
    if cmd == ioctls.KVM_GET_DIRTY_LOG:
        return struct_text(cmd, [low, 0, 0, 0, 0, 0])
    words = [first, *padded[2:7]]
    return struct_text(cmd, words) if cmd in ioctls.NAMES else ""
