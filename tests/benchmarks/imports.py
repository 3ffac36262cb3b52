"""Measure (e): import of strace and tracefs text against a bare loop over its lines, and against wc -l."""

import resource
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from measure import Case, in_turn

from replay.sources import open_stream

_SECOND: Final = 1_795_341_351


def _stamp(number: int, step_us: int) -> str:
    return f"{_SECOND + number * step_us // 1_000_000}.{number * step_us % 1_000_000:06}"


def tracefs_start() -> Iterator[str]:
    """Yield the beginning of a trace: a VM, a memslot, a vCPU."""
    calls = ((3, 0xAE01, 4), (4, 0x4020AE46, 0), (4, 0xAE41, 5))
    for number, (fd, cmd, ret) in enumerate(calls):
        head = f"         pdguest-15412   [000] ..... {_stamp(number, 20)}: "
        yield f"{head}sys_ioctl(fd: {fd:x}, cmd: 0x{cmd:x}, arg: 0x7ffe92ed8d40)\n"
        yield f"{head}sys_ioctl -> 0x{ret:x}\n"
    yield f"         pdguest-15412   [000] ..... {_stamp(4, 20)}: sys_ioctl(fd: 5, cmd: 0xae80, arg: 0)\n"


def tracefs_pages(lines: int) -> Iterator[str]:
    """Yield tracefs text that is nearly all shadow pages, as the largest capture."""
    yield from tracefs_start()
    for number in range(lines // 2):
        gfn = 0x800 + number * 641 % 1024
        page = f"gfn {gfn:x} l2 8-byte q0 wux nxe ad root 0 sync"
        yield f"         pdguest-15412   [000] ...1. {_stamp(10 + 2 * number, 18)}: kvm_mmu_get_page: sp gen 0 {page} new\n"
        yield f"         pdguest-15412   [000] ...1. {_stamp(11 + 2 * number, 18)}: kvm_mmu_prepare_zap_page: sp gen 0 {page}\n"


def tracefs_calls(lines: int) -> Iterator[str]:
    """Yield tracefs text that is nearly all KVM_RUN, as a QEMU boot."""
    yield from tracefs_start()
    yield f"         pdguest-15412   [000] ..... {_stamp(5, 20)}: sys_ioctl -> 0x0\n"
    for number in range(lines // 2):
        yield f" qemu-system-x86-15412   [001] ..... {_stamp(10 + 2 * number, 18)}: sys_ioctl(fd: 5, cmd: 0xae80, arg: 0)\n"
        yield f" qemu-system-x86-15412   [001] ..... {_stamp(11 + 2 * number, 18)}: sys_ioctl -> 0x0\n"


def strace(lines: int) -> Iterator[str]:
    """Yield strace text: one memslot call in 200 lines, as a QEMU boot with resets has them (95 in 19,034)."""
    yield f'100 {_stamp(0, 50)} openat(AT_FDCWD, "/dev/kvm", O_RDWR|O_CLOEXEC) = 3</dev/kvm>\n'
    yield f"100 {_stamp(1, 50)} ioctl(3</dev/kvm>, KVM_CREATE_VM, 0) = 4<anon_inode:kvm-vm>\n"
    yield f"100 {_stamp(2, 50)} ioctl(4<anon_inode:kvm-vm>, KVM_CREATE_VCPU, 0) = 5<anon_inode:kvm-vcpu:0>\n"
    for number in range(lines):
        head = f"100 {_stamp(10 + number, 50)} ioctl("
        if number % 200:
            yield f"{head}5<anon_inode:kvm-vcpu:0>, KVM_RUN, 0) = 0\n"
        else:
            size = 0 if number // 200 % 2 else 33554432
            region = f"slot=0, flags=0, guest_phys_addr=0, memory_size={size}, userspace_addr=0x7f041b600000"
            yield f"{head}4<anon_inode:kvm-vm>, KVM_SET_USER_MEMORY_REGION, {{{region}}}) = 0\n"


def merged(lines: int) -> tuple[Iterator[str], Iterator[str]]:
    """Return a run as strace and as tracefs text: nearly all KVM_RUN, a memslot call in every 1000."""
    return _merged_strace(lines // 2), _merged_trace(lines // 2)


def _merged_calls(calls: int) -> Iterator[tuple[str, int, int, str, str]]:
    yield "KVM_CREATE_VM", 3, 0xAE01, "0", "4<anon_inode:kvm-vm>"
    yield "KVM_CREATE_VCPU", 4, 0xAE41, "0", "5<anon_inode:kvm-vcpu:0>"
    for number in range(calls):
        size = 0 if number // 1000 % 2 else 33554432
        region = f"{{slot=0, flags=0, guest_phys_addr=0, memory_size={size}, userspace_addr=0x7f041b600000}}"
        yield ("KVM_RUN", 5, 0xAE80, "0", "0") if number % 1000 else ("KVM_SET_USER_MEMORY_REGION", 4, 0x4020AE46, region, "0")


def _merged_strace(calls: int) -> Iterator[str]:
    notes = {3: "/dev/kvm", 4: "anon_inode:kvm-vm", 5: "anon_inode:kvm-vcpu:0"}
    yield f'15412 {_stamp(0, 100)} openat(AT_FDCWD, "/dev/kvm", O_RDWR|O_CLOEXEC) = 3</dev/kvm>\n'
    for number, (name, fd, _cmd, arg, ret) in enumerate(_merged_calls(calls), 1):
        yield f"15412 {_stamp(number, 100)} ioctl({fd}<{notes[fd]}>, {name}, {arg}) = {ret}\n"


def _merged_trace(calls: int) -> Iterator[str]:
    for number, (_name, fd, cmd, _arg, ret) in enumerate(_merged_calls(calls), 1):
        head = " qemu-system-x86-15412   [001] ..... "
        yield f"{head}{_stamp(100 * number + 20, 1)}: sys_ioctl(fd: {fd:x}, cmd: 0x{cmd:x}, arg: 0)\n"
        yield f"{head}{_stamp(100 * number + 60, 1)}: sys_ioctl -> 0x{ret.partition('<')[0]}\n"


TRACES: Final[dict[str, Callable[[int], Iterator[str]]]] = {
    "tracefs, shadow pages": tracefs_pages,
    "tracefs, dense in ioctl lines": tracefs_calls,
    "strace": strace,
}


def line_loop(path: Path) -> None:
    """Look at every line, and do nothing."""
    with path.open("rb") as lines:
        for _line in lines:
            pass


def wc_ns(path: Path, lines: int) -> float:
    """Return the nanoseconds of CPU time a line of wc -l; 0 where there is none."""
    program = shutil.which("wc")
    if program is None:
        return 0.0
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([program, "-l", path], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e9 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / lines


def imports(folder: Path, lines: int, rounds: int) -> None:
    """Print the table of (e)."""
    print(f"\n(e) import of text, {lines:,} lines each, one core")
    print(f"  {'':38} {'ns/line':>9} {'M lines/s':>9} {'x loop':>7} {'wc -l':>9}")
    for name, make in TRACES.items():
        path = folder / "trace.txt"
        with path.open("w") as out:
            out.writelines(make(lines))

        def imported(path: Path = path) -> None:
            deque(open_stream([str(path)]).items(), maxlen=0)

        bare = Case("line loop", lines, lambda path=path: line_loop(path))  # type: ignore[misc]  # bound now, of known type
        ours = Case(name, lines, imported)
        in_turn([bare, ours], rounds)
        wc = min(wc_ns(path, lines) for _ in range(rounds))
        print(f"  {name:38} {ours.best_ns:9.0f} {1000 / ours.best_ns:9.2f} {ours.best_ns / bare.best_ns:7.1f} {wc:6.0f} ns")
    merge(folder, lines, rounds)


def merge(folder: Path, lines: int, rounds: int) -> None:
    """Print the speed of a merge, in lines of its trace, beside which strace has half as many."""
    paths = [folder / "strace.txt", folder / "trace.txt"]
    for path, text in zip(paths, merged(lines), strict=True):
        with path.open("w") as out:
            out.writelines(text)
    both = Case("merge", lines, lambda: deque(open_stream(list(map(str, paths))).items(), maxlen=0))
    in_turn([both], rounds)
    print(f"  {'nearly all KVM_RUN, strace and tracefs':38} {both.best_ns:9.0f} {1000 / both.best_ns:9.2f} lines of the trace")
