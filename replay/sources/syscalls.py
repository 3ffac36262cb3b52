"""Hold what one line of a strace recording says: a system call or half of one, a signal, an exit, an attach.

Records come in the order of lines. A call that strace split (`<unfinished ...>`, `<... resumed>`) is one object that is given
twice: at its first half with stage ENTER, at its second with stage EXIT and everything filled in. A call on one line is given
once, with stage BOTH. A call that never returned stays at ENTER, or comes as EXIT with `killed` set.
"""

from typing import Any, Final

import attrs

ENTER: Final = 1
"""First half of a call: arguments may be incomplete, no result."""
EXIT: Final = 2
"""Second half of a call: the same object as at ENTER, now complete."""
BOTH: Final = 3
"""A whole call on one line."""


@attrs.define(eq=False)
class Syscall:
    """One system call; mutable because its second half may come later.

    args: text between the brackets, unparsed; both halves joined. ret: 0 or positive result, -errno of a failure, None when
    not known (`= ?`, killed, cut line, restarted). ret_note: what stands in `<>` behind the result (-y). enter_ns: stamp of
    the line in the recording's clock; exit_ns: stamp of the second half or enter_ns plus the duration of -T, else None.
    line and exit_line: line numbers of the halves from 1, equal for a call on one line; exit_line is 0 while at ENTER.
    killed: it never returned, its effect is not known. injected: strace -e inject= replaced it, the kernel never saw it.
    file: index into the header's sources. held: free for the reader; the resolver keeps the file the call works on there.
    """

    tid: int
    name: str
    args: str
    line: int
    stage: int = BOTH
    ret: int | None = None
    errno: str = ""
    enter_ns: int | None = None
    exit_ns: int | None = None
    exit_line: int = 0
    killed: bool = False
    injected: bool = False
    ret_note: str = ""
    comm: str = ""
    file: int = 0
    held: Any = None

    @property
    def done(self) -> bool:
        """Whether the result, if there is one, is in: stage BOTH or EXIT."""
        return self.stage != ENTER

    @property
    def time_ns(self) -> int | None:
        """When it took effect, as well as the recording tells: its exit, else its entry."""
        return self.enter_ns if self.exit_ns is None else self.exit_ns


@attrs.define(eq=False)
class TaskEnd:
    """`+++ exited with N +++`, `+++ killed by SIG +++` or `+++ superseded by execve in pid N +++`."""

    tid: int
    line: int
    killed: bool = False
    superseded_by: int | None = None
    time_ns: int | None = None
    file: int = 0


@attrs.define(eq=False)
class SignalLine:
    """`--- SIGNAL {...} ---`; text is what stands between the dashes."""

    tid: int
    line: int
    text: str
    time_ns: int | None = None
    file: int = 0


@attrs.define(eq=False)
class AttachLine:
    """`strace: Process N attached`; tid is N."""

    tid: int
    line: int
    time_ns: int | None = None
    file: int = 0


Record = Syscall | TaskEnd | SignalLine | AttachLine
