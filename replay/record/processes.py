"""Start processes that die with the recorder, and know how each of them ended.

Every process that is started here gets PR_SET_PDEATHSIG: it is killed when the recorder is, however that ends. The recorder is a
subreaper (PR_SET_CHILD_SUBREAPER): what its children leave behind becomes its own child, and none goes astray.
Source: prctl(2); kernel/exit.c reparent_leader(), find_new_reaper().
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_NOT_STARTED: Final = 127
"""Exit status of a command that could not be started, as shells have it."""
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGQUIT)


def _prctl() -> Callable[..., int]:
    function = ctypes.CDLL(None, use_errno=True).prctl
    function.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    return lambda option, argument: int(function(option, argument, 0, 0, 0))


def run_mortal(words: Sequence[str], seconds: float) -> "subprocess.CompletedProcess[bytes]":
    """Run a program to its end and return what it said; it dies with us. Raises OSError or subprocess.SubprocessError."""
    prctl, parent = _prctl(), os.getpid()

    def die_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # died before that was set
            os._exit(_NOT_STARTED)

    return subprocess.run(  # noqa: S603 - fixed words
        words,
        capture_output=True,
        timeout=seconds,
        check=False,
        preexec_fn=die_with_parent,  # safe: no thread is running, the tools are tried before anything else
    )


@attrs.define
class Children:
    """The processes that were started here, by number; `ended` holds the wait status of those that are gone.

    helpers: those that are part of the recorder. A command is waited for with all that it left behind.
    """

    ended: dict[int, int] = attrs.field(factory=dict)
    helpers: set[int] = attrs.field(factory=set)
    _prctl: Callable[..., int] = attrs.field(factory=_prctl)
    _parent: int = attrs.field(factory=os.getpid)

    def adopt_orphans(self) -> None:
        """Become the parent of what the children leave behind."""
        self._prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def start(
        self,
        words: Sequence[str],
        *,
        files: Sequence[int | None] = (None, None, None),
        helper: bool = False,
        hold: int | None = None,
        outlives: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> int:
        """Start a program and return its number.

        files: descriptors for its standard streams, None keeps ours. helper: a part of the recorder, in a session of its own, so
        that a terminal's signals do not reach it. hold: it runs only when a byte can be read there; at the end of that file it
        ends. outlives: it is not killed with the recorder, because it cleans up behind it. environ: variables that it gets where
        ours has none of that name.
        """
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            if helper:
                self.helpers.add(pid)
            return pid
        try:
            for name, value in (environ or {}).items():
                os.environ.setdefault(name, value)
            self._become(words, files, own_session=helper, hold=hold, outlives=outlives)
        except OSError as error:
            os.write(2, f"{words[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(_NOT_STARTED)

    def _become(
        self, words: Sequence[str], files: Sequence[int | None], *, own_session: bool, hold: int | None, outlives: bool
    ) -> None:
        if not outlives:
            self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._parent:  # died before that was set
                return
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        if own_session:
            os.setsid()
        if hold is not None and not os.read(hold, 1):
            return
        for target, source in enumerate(files):
            if source is not None:
                os.dup2(source, target)
        os.execvp(words[0], list(words))  # noqa: S606 - the command is the user's own

    def reap(self) -> None:
        """Note which children have ended."""
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                self.ended[found[0]] = found[1]

    def others(self) -> list[int]:
        """List the children that are no helpers: the command, and what it left behind."""
        return [pid for pid in children_of(os.getpid()) if pid not in self.helpers]

    def send(self, pid: int, number: int) -> None:
        """Send a signal to a child that has not been waited for: its number can not be another's."""
        if pid not in self.ended:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait(self, pid: int, seconds: float) -> bool:
        """Wait for a child to end; say whether it has."""
        until = time.monotonic() + seconds
        self.reap()
        while pid not in self.ended and time.monotonic() < until:
            time.sleep(0.01)
            self.reap()
        return pid in self.ended

    def kill_all(self) -> None:
        """Kill every child that is left, and what they leave behind, until none is."""
        for _ in range(100):
            self.reap()
            left = children_of(os.getpid())
            for pid in left:
                self.send(pid, signal.SIGKILL)
            if not left:
                return
            time.sleep(0.02)


def children_of(parent: int) -> list[int]:
    """List the living children of a process, by number."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            fields = stat_of(int(entry.name))
            if fields and fields[1] == str(parent) and fields[0] != "Z":
                found.append(int(entry.name))
    return sorted(found)


def stat_of(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat behind the name (the first is the state); none for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def sleeps(pid: int) -> bool:
    """Say whether a process waits for something, rather than runs or writes to a disk; also when it is gone."""
    return stat_of(pid)[:1] in ([], ["S"], ["Z"])


def started_at(pid: int) -> str:
    """Return when a process began, in ticks since boot: with its number, what tells it from all others; "" when it is gone."""
    fields = stat_of(pid)
    return fields[19] if fields else ""


def threads_of(pid: int) -> list[int]:
    """List the threads of a process, by number; none when it is gone."""
    try:
        return sorted(int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def made_by(tid: int, parent: int) -> bool:
    """Say whether a task is a thread of another's process, or a child of it."""
    try:
        words = dict(line.split(":", 1) for line in Path(f"/proc/{tid}/status").read_text(errors="replace").splitlines())
        group = dict(line.split(":", 1) for line in Path(f"/proc/{parent}/status").read_text(errors="replace").splitlines())
    except (OSError, ValueError):
        return False
    mine = group.get("Tgid", "").strip()
    return bool(mine) and mine in {words.get("Tgid", "").strip(), words.get("PPid", "").strip()}


def exit_words(status: int) -> str:
    """Say how a process ended, by its wait status.

    >>> exit_words(0), exit_words(768), exit_words(9)
    ('exit status 0', 'exit status 3', 'killed by SIGKILL')
    """
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"killed by {signal.Signals(number).name if number in set(signal.Signals) else f'signal {number}'}"
    return f"exit status {os.waitstatus_to_exitcode(status)}"


def shell_status(status: int) -> int:
    """Return a wait status as shells give it: 128 and the signal's number for a process that a signal ended."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)
