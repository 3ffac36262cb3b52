"""Read files in a process that may take no more memory than 64 MiB and four times the file: `child_limits.py MIB_MORE FILE...`.

One process warms up, so that imports do not count; each file is read in a fork of it, with its own limit of address space.
Prints a line for each: status, MiB of memory that it took at most, name. Status 0: read, or an error of ours.
"""

import os
import resource
import sys
from pathlib import Path

from replay.errors import KvmReplayError
from replay.recording.verify import verify
from replay.sources import open_stream

MIB = 1 << 20
CPU_SECONDS_MAX = 100
"""Some fifty times what each file takes: work that grows with the square of the input does not fit."""


def read(path: str) -> None:
    """Read a file as any verb does, keeping nothing, and verify it."""
    try:
        stream = open_stream([path])
        for _ in stream.items():
            pass
        stream.trailer()
        stream.warnings()
    except KvmReplayError:
        pass
    verify(path)


def address_space() -> int:
    """Return the bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def peak() -> int:
    """Return the most KiB of memory that this process held."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0])


def limited(path: str, allowance_mib: int) -> int:
    """Read a file under its limit, in a fork; return the fork's status."""
    allowed = allowance_mib * MIB + 4 * Path(path).stat().st_size
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 1
    try:
        before = peak()
        resource.setrlimit(resource.RLIMIT_AS, (address_space() + allowed, resource.getrlimit(resource.RLIMIT_AS)[1]))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS_MAX, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        read(path)
        print(f"0 {max(0, peak() - before) // 1024} {path}")
        status = 0
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        resource.setrlimit(resource.RLIMIT_AS, (resource.getrlimit(resource.RLIMIT_AS)[1],) * 2)
        print(f"1 0 {path}: {type(error).__name__}: {error}"[:500])
    finally:
        sys.stdout.flush()
        os._exit(status)


def main(arguments: list[str]) -> int:
    """Warm up with the first file of each form, then read all."""
    allowance_mib, warm, paths = int(arguments[0]), int(arguments[1]), arguments[2:]
    for path in paths[:warm]:
        read(path)
    return max(limited(path, allowance_mib) for path in paths[warm:])


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    sys.exit(main(sys.argv[1:]))
