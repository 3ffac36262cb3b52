"""Find out who made whom: the first pass over a strace recording.

A thread's lines often come before the line that names it (`<... clone3 resumed> ... = TID`), and inside a pid namespace the
printed number is not the thread's. So the first pass gathers the calls that make tasks, the tasks that appear, and the
processes that SIGCHLD names, each with its place; `Lineage` then says for every task who made it and what they share.

A call is matched to its task by the printed number when a task of that number first appears after the call began. What is
left over is matched in order: the kernel hands out task ids in rising order (kernel/pid.c alloc_pid(), cyclic), so the
calls in order of their places belong to the unmatched tasks in order of their ids. Such births are marked `inferred`.
"""

import re
from typing import Final

import attrs

Place = tuple[int, int]
"""Order of things in a recording: (offset or time, line or file)."""

_SIGCHLD_PID: Final = re.compile(r"si_signo=(?:SIGCHLD|0x11|17)[^}]*?\bsi_pid=(\d{1,7})")
_FLAGS: Final = re.compile(r"flags=([^,}]*)")
_CLONE_VM: Final = 0x100
_CLONE_FILES: Final = 0x400
_CLONE_VFORK: Final = 0x4000
_CLONE_THREAD: Final = 0x10000
_BITS: Final = {"CLONE_VM": _CLONE_VM, "CLONE_FILES": _CLONE_FILES, "CLONE_THREAD": _CLONE_THREAD, "CLONE_VFORK": _CLONE_VFORK}
MAKERS: Final = frozenset({"clone", "clone2", "clone3", "fork", "vfork"})
"""System calls that make a task."""
_LOOK_AHEAD: Final = 256
"""How many calls without a task are tried for one task without a call, the oldest first."""


@attrs.define
class Birth:
    """How a task came to be: made by `parent`, sharing this with it. call: line of the call, 0 when it was not recorded."""

    tid: int
    parent: int
    thread: bool = False
    shares_vm: bool = False
    shares_files: bool = False
    inferred: bool = False
    call: int = 0
    file: int = 0


@attrs.define
class MakerCall:
    """A call that makes a task, as the first pass met it; ret is the printed number, None while it is not known."""

    parent: int
    name: str
    args: str
    place: Place
    line: int
    file: int = 0
    ret: int | None = None
    failed: bool = False


def clone_flags(name: str, args: str) -> int:
    """Return the CLONE_ bits of a call that matter here, from words or from a number (-X raw).

    >>> hex(clone_flags("clone", "child_stack=NULL, flags=CLONE_VM|CLONE_VFORK|SIGCHLD"))
    '0x4100'
    """
    if name == "vfork":
        return _CLONE_VM | _CLONE_VFORK
    if name == "fork":
        return 0
    found = _FLAGS.search(args)
    total = 0
    for word in found[1].split(" /*", 1)[0].split("|") if found else ():
        bits = _BITS.get(word.strip())
        if bits is None:
            bits = int(word, 16) if re.fullmatch(r"0x[0-9a-f]{1,16}", word) else 0
        total |= bits
    return total


@attrs.define
class Lineage:
    """Births by tid in order of time (ids are reused), and what the first pass learned of the recording as a whole.

    makers_recorded: calls that make tasks are in it, so that a task without a birth was there before, or was attached to.
    first: where each task first appears. attached: tasks that strace says it attached to.
    """

    births: dict[int, list[Birth]] = attrs.field(factory=dict)
    first: dict[int, Place] = attrs.field(factory=dict)
    attached: set[int] = attrs.field(factory=set)
    makers_recorded: bool = False
    _by_call: dict[tuple[int, int], int] = attrs.field(factory=dict)
    _born: set[int] = attrs.field(factory=set)

    def child_of(self, file: int, line: int) -> int | None:
        """Return the task that the call at a line made, None when it is not known or never appears."""
        return self._by_call.get((file, line))

    def root_pid(self, tid: int) -> int:
        """Return the process of the tasks that were there before the recording: the lowest id of theirs, its leader's."""
        return min((other for other in self.first if other not in self._born), default=tid)

    def take(self, tid: int) -> Birth | None:
        """Return the next birth of a tid and pass to the one after it; None when none is known."""
        waiting = self.births.get(tid)
        return waiting.pop(0) if waiting else None

    def is_born(self, tid: int) -> bool:
        """Say whether a birth of that number was noted, whoever has it now."""
        return tid in self._born

    def add(self, birth: Birth) -> None:
        """Note a birth."""
        self.births.setdefault(birth.tid, []).append(birth)
        self._born.add(birth.tid)
        if birth.call:
            self._by_call[birth.file, birth.call] = birth.tid


@attrs.define
class LineageBuilder:
    """Gather what the first pass meets, then match it."""

    calls: list[MakerCall] = attrs.field(factory=list)
    children: dict[int, tuple[int, Place]] = attrs.field(factory=dict)
    executed: set[int] = attrs.field(factory=set)
    lineage: Lineage = attrs.field(factory=Lineage)

    def signal(self, tid: int, text: str, place: Place) -> None:
        """Take a signal line: SIGCHLD names a child process of the one that receives it."""
        found = _SIGCHLD_PID.search(text)
        if found is not None:
            self.children.setdefault(int(found[1]), (tid, place))

    def build(self) -> Lineage:
        """Match calls and tasks; see the head of the file."""
        made = sorted((call for call in self.calls if not call.failed), key=lambda call: call.place)
        self.lineage.makers_recorded = bool(self.calls)
        left = [call for call in made if not self._match_number(call)]
        self._match_signals()
        self._match_order(left)
        self._match_exec()
        return self.lineage

    def _match_number(self, call: MakerCall) -> bool:
        """Match a call by the number it printed; the same number may be made again and again."""
        if call.ret is None or call.ret not in self.lineage.first:
            return False
        if self.lineage.first[call.ret] < call.place:
            # There before the call: an id used again. A task that the call made shows itself by a line after it, but so does
            # the old one; only an id of a namespace is lower than its maker's among ids that are all seen.
            known = self.lineage.births.get(call.ret)
            if not known:
                return False
        self.lineage.add(birth_of(call, call.ret))
        return True

    def _match_signals(self) -> None:
        for tid, (parent, place) in sorted(self.children.items()):
            first = self.lineage.first.get(tid)
            if first is not None and first < place and tid != parent and tid not in self.lineage.births:
                self.lineage.add(Birth(tid, parent, inferred=True))

    def _match_exec(self) -> None:
        """Take a task that calls execve for a process of its own, when the call that made it (vfork) was not recorded."""
        root = min(self.lineage.first, key=lambda tid: (self.lineage.first[tid], tid), default=0)
        for tid in sorted(self.executed):
            if tid not in self.lineage.births and tid != root and tid not in self.lineage.attached:
                self.lineage.add(Birth(tid, root, inferred=True))

    def _match_order(self, calls: list[MakerCall]) -> None:
        """Match what is left by order: calls by place, tasks by id; a call can not be later than its task's first line."""
        oldest = min(self.lineage.first.values(), default=(0, 0))
        orphans = [
            tid
            for tid in sorted(self.lineage.first)
            if tid not in self.lineage.births and self.lineage.first[tid] != oldest and tid not in self.lineage.attached
        ]
        waiting = sorted(calls, key=lambda call: call.place)
        for tid in orphans:
            ahead = enumerate(waiting[:_LOOK_AHEAD])
            index = next((place for place, call in ahead if self._can_be(call, tid)), None)
            if index is None:
                continue
            birth = birth_of(waiting.pop(index), tid)
            birth.inferred = True
            self.lineage.add(birth)

    def _can_be(self, call: MakerCall, tid: int) -> bool:
        # A number inside a namespace is lower than the one outside: namespaces begin to count at 1.
        return call.place < self.lineage.first[tid] and (call.ret is None or call.ret < tid)


def birth_of(call: MakerCall, tid: int) -> Birth:
    """Return how a call's task came to be."""
    flags = clone_flags(call.name, call.args)
    return Birth(
        tid,
        call.parent,
        thread=bool(flags & _CLONE_THREAD),
        shares_vm=bool(flags & _CLONE_VM),
        shares_files=bool(flags & _CLONE_FILES),
        call=call.line,
        file=call.file,
    )
