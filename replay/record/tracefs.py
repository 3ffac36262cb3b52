"""Record KVM's tracepoints in a private tracefs instance, and leave nothing of it.

An instance has a ring buffer and switches of its own: whoever else traces this machine is not disturbed. Its name says which
process made it, so that one of a dead recorder is known and removed by the next run; before that, a small shell that outlives
the recorder has tried (`WATCHDOG`). Source: Documentation/trace/ftrace.rst, "Instances".
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from replay.errors import CaptureError
from replay.record.processes import started_at

MOUNTS: Final = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
PREFIX: Final = "kvm-replay"
EVENTS: Final = (
    "kvmmmu/kvm_mmu_get_page",
    "kvmmmu/kvm_mmu_prepare_zap_page",
    "syscalls/sys_enter_ioctl",
    "syscalls/sys_exit_ioctl",
)
BUFFER_KIB: Final = 16384
"""Ring buffer of each CPU: some 300,000 events, ten seconds of a guest that does nothing but change its page tables."""
CLOCKS: Final = (("tai", time.CLOCK_TAI), ("mono", time.CLOCK_MONOTONIC))
"""Clocks that can be compared with strace's, the first one that the kernel has; tai is there since Linux 6.0."""
WATCHDOG: Final = """\
read _
i=0
while [ -d "$1" ] && [ $i -lt 100 ]; do
  echo 0 >"$1/tracing_on"; rmdir "$1" && break
  i=$((i + 1)); sleep 0.1
done 2>/dev/null
"""
"""Shell program: wait until nobody can write to standard input any more, then remove the instance $1."""
_STAT: Final = re.compile(r"^(entries|overrun|commit overrun|dropped events): (\d+)$", re.MULTILINE)


def mount_point() -> Path | None:
    """Return where tracefs is mounted, None where it is not, or not for us."""
    return next((Path(path) for path in MOUNTS if (Path(path) / "instances").is_dir()), None)


def remove_stale(root: Path) -> list[str]:
    """Remove the instances of recorders that are gone; return their names."""
    removed = []
    for path in sorted((root / "instances").glob(f"{PREFIX}-*-*")):
        _, pid, began = path.name.rsplit("-", 2)
        if pid.isdecimal() and started_at(int(pid)) != began:
            Instance(path).remove()
            if not path.exists():
                removed.append(path.name)
    return removed


class Instance:
    """A tracefs instance; `clock` is the header's name of its clock, `offset_ns` that clock minus realtime."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock, self.offset_ns = "none", 0

    @classmethod
    def make(cls, root: Path) -> "Instance":
        """Make one of our own, its events on. Raises CaptureError with what was refused; then nothing is left."""
        name = f"{PREFIX}-{os.getpid()}-{started_at(os.getpid())}"
        instance = cls(root / "instances" / name)
        try:
            instance.path.mkdir()
            instance._set_up()
        except OSError as error:
            instance.remove()
            raise CaptureError(error.strerror or str(error), where=error.filename or str(instance.path)) from None
        return instance

    def _set_up(self) -> None:
        self._write("tracing_on", "0")
        self._set_clock()
        with suppress(OSError):
            self._write("buffer_size_kb", str(BUFFER_KIB))  # less is no reason to give up
        with suppress(OSError):
            self._write("options/record-tgid", "1")
        for event in EVENTS:
            self._write(f"events/{event}/enable", "1")
        self._write("tracing_on", "1")
        with suppress(OSError):
            self._write("trace_marker", "recording begins")

    def _set_clock(self) -> None:
        for name, clock in CLOCKS:
            with suppress(OSError):
                self._write("trace_clock", name)
                self.offset_ns = clock_offset_ns(clock)
                self.clock = {"mono": "monotonic"}.get(name, name)
                return
        raise CaptureError("no clock that strace's can be compared with", where=str(self.path / "trace_clock"))

    def _write(self, name: str, text: str) -> None:
        with (self.path / name).open("r+b", buffering=0) as stream:  # never makes a file
            stream.write(text.encode())

    @property
    def tells_processes(self) -> bool:
        """Whether each line names its process."""
        try:
            return (self.path / "options/record-tgid").read_text().strip() == "1"
        except OSError:
            return False

    def stop(self) -> None:
        """Stop recording; what is in the buffer is still to be read."""
        with suppress(OSError):
            self._write("tracing_on", "0")

    def stats(self) -> Iterator[tuple[int, dict[str, int]]]:
        """Yield what the kernel counted for each CPU: entries not yet read, overrun, commit overrun, dropped events."""
        for path in sorted(self.path.glob("per_cpu/cpu*/stats"), key=lambda found: int(found.parent.name[3:])):
            with suppress(OSError):
                text = path.read_text()
                yield int(path.parent.name[3:]), {name: int(number) for name, number in _STAT.findall(text)}

    def remove(self) -> None:
        """Switch everything off and remove it; a reader that is still on its way out is waited for a little."""
        for name in ("tracing_on", "events/enable"):
            with suppress(OSError):
                self._write(name, "0")
        for _ in range(100):
            try:
                self.path.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.02)
            else:
                return


def clock_offset_ns(clock: int) -> int:
    """Return a clock minus realtime, from the closest of some readings.

    Below a ms it is taken as none: that is the time between two readings.
    """
    best = min((_reading(clock) for _ in range(20)), key=lambda found: found[0])[1]
    return 0 if abs(best) < 1_000_000 else best


def _reading(clock: int) -> tuple[int, int]:
    before = time.clock_gettime_ns(time.CLOCK_REALTIME)
    there = time.clock_gettime_ns(clock)
    after = time.clock_gettime_ns(time.CLOCK_REALTIME)
    return after - before, there - (before + after) // 2


def clock_pairs() -> str:
    """Return all clocks, read one after the other, as `name=ns` words.

    Two such readings, from begin and end of a recording, tell how its clocks drift apart.
    """
    clocks = (
        ("realtime", time.CLOCK_REALTIME),
        ("tai", time.CLOCK_TAI),
        ("boottime", time.CLOCK_BOOTTIME),
        ("monotonic", time.CLOCK_MONOTONIC),
    )
    return " ".join(f"{name}={time.clock_gettime_ns(clock)}" for name, clock in clocks)
