"""Measure what recording costs the recorded: a memslot call, a tracked page, a BIOS boot of QEMU, with each source and without.

Usage: python tests/benchmarks/record_overhead.py [REPEATS]. Needs /dev/kvm. Of calls and pages the shortest
step of a run counts, of boots the best of REPEATS: other work on the machine does not show. nan where a source does not work.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VMM = [sys.executable, str(ROOT / "tests" / "record" / "small_vmm.py")]
SOURCES = (None, "strace", "tracefs", "bpftrace", "bpftrace --stacks")
QEMU = ["qemu-system-x86_64", "-M", "pc", "-m", "256", "-accel", "kvm", "-display", "none", "-nodefaults", "-vga", "std"]
READY = "No bootable device"
BOOT_SECONDS = 120


def under(source: str | None, folder: Path, command: list[str]) -> list[str]:
    """Return a command line that runs a command, recorded or not."""
    if source is None:
        return command
    words = [sys.executable, "-m", "replay", "record", "--quiet", "--force", "--with", *source.split()]
    return [*words, "-o", str(folder / "out.kvmr"), "--", *command]


def vmm(source: str | None, folder: Path, rounds: int, pages: int, what: str) -> float:
    """Return the us that the small VMM itself measured."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = under(source, folder, [*VMM, str(rounds), str(pages)])
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
    found = re.search(rf"{what}=([\d.]+)", done.stdout)
    return float(found[1]) if found else float("nan")


def boot(source: str | None, folder: Path) -> float:
    """Return the seconds from the first line of the BIOS to its last: QEMU's start and ours are left out."""
    log = folder / "bios.txt"
    log.unlink(missing_ok=True)
    words = [*QEMU, "-chardev", f"file,id=bios,path={log}", "-device", "isa-debugcon,iobase=0x402,chardev=bios"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(under(source, folder, words), env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    began, end = 0.0, time.monotonic() + BOOT_SECONDS
    try:
        while time.monotonic() < end and process.poll() is None:
            text = log.read_text(errors="replace") if log.exists() else ""
            began = began or (time.monotonic() if text else 0.0)
            if READY in text:
                return time.monotonic() - began
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    return float("nan")


def main() -> None:
    """Print a row for each source."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print("source               us a memslot call   us a tracked page   s a BIOS boot")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for source in SOURCES:
            calls = vmm(source, folder, 3000, 0, "call_us")
            pages = vmm(source, folder, 0, 5000, "page_us")
            boots = min(boot(source, folder) for _ in range(repeats))
            print(f"{source or 'none':20} {calls:17.1f} {pages:19.1f} {boots:15.2f}", flush=True)


if __name__ == "__main__":
    main()
