"""Measure what recording costs: a memslot call, a tracked page, a BIOS boot of QEMU, with each source and without.

Usage: python tests/benchmarks/record_overhead.py [ROUNDS [SOURCE,...]]. Needs /dev/kvm and root; a round takes 2 to 4 minutes.
Prints the table of docs/recording.md. Sources take turns, so that all meet the same noise; each cell is the median of ROUNDS.
*as the VMM sees it*: by the clock, of calls and pages a quick step, a tenth of a run's are quicker. *CPU time*: of the VMM, the
tools and the recorder, less that of a run that does nothing. A source that does not work here has "-".
"""

import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
VMM = [sys.executable, str(ROOT / "tests" / "record" / "small_vmm.py")]
SOURCES = ("not recorded", "strace", "tracefs", "bpftrace", "bpftrace --stacks")
HEADS = {"tracefs": "strace beside tracefs"}
CALL_ROUNDS, CALLS_A_ROUND, PAGES = 5000, 4, 5000
QEMU = ["qemu-system-x86_64", "-M", "pc", "-m", "256", "-accel", "kvm", "-display", "none", "-nodefaults", "-vga", "std"]
READY = "No bootable device"
BOOT_SECONDS = 120
NAN = float("nan")


class Run(NamedTuple):
    """One run that ended: s by the clock, s of CPU time of all its processes, what it printed."""

    wall: float
    cpu: float
    text: str


def under(source: str, folder: Path, command: Sequence[str]) -> list[str]:
    """Return a command line that runs a command, recorded or not."""
    if source == SOURCES[0]:
        return list(command)
    words = [sys.executable, "-m", "replay", "record", "--quiet", "--force", "--with", *source.split()]
    return [*words, "-o", str(folder / "out.kvmr"), "--", *command]


def run(words: Sequence[str], folder: Path, meanwhile: Callable[["subprocess.Popen[bytes]"], None] | None = None) -> Run:
    """Run a command to its end; CPU time is of all that it waited for, which is all that it started."""
    began = time.monotonic()
    with (folder / "text").open("wb") as text:
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(words, env=environ, stdout=text, stderr=subprocess.DEVNULL)
        if meanwhile is not None:
            meanwhile(process)
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0  # it is waited for
    return Run(time.monotonic() - began, usage.ru_utime + usage.ru_stime, (folder / "text").read_text())


def step(source: str, folder: Path, idle: Run, numbers: tuple[int, int], name: str, things: int) -> tuple[float, float]:
    """Return the us of one of some things, as the small VMM saw it and as CPU time."""
    done = run(under(source, folder, [*VMM, *map(str, numbers)]), folder)
    found = re.search(rf"{name}=([\d.]+)", done.text)
    return (float(found[1]), (done.cpu - idle.cpu) / things * 1e6) if found else (NAN, NAN)


def boot(source: str, folder: Path, idle: Run) -> tuple[float, float]:
    """Return the s from the first line of the BIOS to its last, and the CPU time of the whole run."""
    log = folder / "bios.txt"
    log.unlink(missing_ok=True)
    words = [*QEMU, "-chardev", f"file,id=bios,path={log}", "-device", "isa-debugcon,iobase=0x402,chardev=bios"]
    times: list[float] = []

    def watch(process: "subprocess.Popen[bytes]") -> None:
        end = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < end and os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            text = log.read_text(errors="replace") if log.exists() else ""
            if text and not times:
                times.append(time.monotonic())
            if READY in text:
                times.append(time.monotonic())
                break
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGTERM)

    done = run(under(source, folder, words), folder, watch)
    return (times[1] - times[0], done.cpu - idle.cpu) if len(times) == 2 else (NAN, NAN)


def measured(source: str, folder: Path) -> list[float]:
    """Return the cells of one source in one round, in the order of ROWS."""
    nothing = run(under(source, folder, ["true"]), folder)
    idle = run(under(source, folder, [*VMM, "0", "0"]), folder)
    calls = step(source, folder, idle, (CALL_ROUNDS, 0), "call_us", CALL_ROUNDS * CALLS_A_ROUND)
    pages = step(source, folder, idle, (0, PAGES), "page_us", PAGES)
    return [*calls, *pages, *boot(source, folder, nothing), nothing.wall, nothing.cpu]


ROWS = (
    ("a memslot call, us, as the VMM sees it", 1),
    ("... CPU time, us", 1),
    ("a page-table page mapped, written 6 times, unmapped, an exit to userspace every 8, us", 0),
    ("... CPU time, us", 0),
    ("QEMU's BIOS boot, s", 2),
    ("... CPU time, s", 2),
    ("begin and end of a recording of `true`, s", 2),
    ("... CPU time, s", 2),
)
"""What a row is of, and with how many decimals it is printed."""


def cell(numbers: Sequence[float], digits: int) -> str:
    """Return the median of what was measured, "-" for nothing."""
    known = [number for number in numbers if not math.isnan(number)]
    return f"{statistics.median(known):.{digits}f}" if known else "-"


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    sources = sys.argv[2].split(",") if len(sys.argv) > 2 else SOURCES
    found: dict[str, list[list[float]]] = {source: [] for source in sources}
    with tempfile.TemporaryDirectory() as name:
        for number in range(rounds):
            for source in sources:
                print(f"round {number + 1} of {rounds}: {source}", file=sys.stderr)
                found[source].append(measured(source, Path(name)))
    print("| | " + " | ".join(HEADS.get(source, source) for source in sources) + " |")
    print("|---" * (len(sources) + 1) + "|")
    for place, (row, digits) in enumerate(ROWS):
        cells = [cell([values[place] for values in found[source]], digits) for source in sources]
        print(f"| {row} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
