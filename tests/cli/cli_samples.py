"""Small recordings and traces for the tests of the command line, and a way to run it as users do."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from replay.events import (
    Event,
    GuestWrite,
    Lost,
    MemslotSet,
    ShadowPageAccount,
    ShadowPageUnaccount,
    Task,
    VcpuCreate,
    VmCreate,
    VmDestroy,
    WriteTrackAdd,
)
from replay.header import Counter, Header, Machine, SourceFile, Tool, Trailer
from replay.recording import JsonlWriter, Writer
from replay.runs import items_of
from replay.units import AsId, Gfn, Gpa, Hva

ROOT = Path(__file__).resolve().parent.parent.parent
VMM = Task(100, 100)
VCPU = Task(100, 101)

HEADER = Header(
    title="boot of a small guest",
    machine=Machine(kernel_release="6.8.0", tdp=False),
    clock="realtime",
    tools=(Tool(name="strace", version="6.1"),),
    sources=(SourceFile(name="strace.txt", format="strace"),),
)
TRAILER = Trailer(
    counters=(
        Counter(kind="ioctl KVM_RUN", count=7, first="strace.txt:12", severity="ignored"),
        Counter(kind="ring buffer overrun", count=3, first="ftrace.txt:9", severity="lost"),
    )
)


def boot() -> list[Event]:
    """Return the events of a boot: 14 of them, two slots, a failed call, shadow pages, an overrun."""
    second = 1_000_000_000

    def slot(number: int, gpa: int, size: int, at: int, ret: int = 0, flags: int = 0) -> MemslotSet:
        hva = Hva(0x7F0000000000 + gpa)
        time_ns = second + at * 1000
        return MemslotSet(
            vm=0,
            ret=ret,
            task=VMM,
            time_ns=time_ns,
            slot=number,
            guest_phys_addr=Gpa(gpa),
            memory_size=size,
            userspace_addr=hva,
            flags=flags,
        )

    return [
        VmCreate(vm=0, ret=5, task=VMM, time_ns=second),
        slot(0, 0, 0x80000000, 10),
        slot(3, 0x80000000, 0x80000000, 1234, flags=1),
        slot(3, 0x80000000, 0x80000000, 1300, flags=0),
        slot(4, 0x1000, 0x1000, 1400, ret=-17),
        VcpuCreate(vm=0, ret=7, task=VCPU, time_ns=second + 1_500_000, vcpu_id=0),
        ShadowPageAccount(vm=0, gfn=Gfn(1), level=4, task=VCPU, time_ns=second + 1_600_000),
        ShadowPageAccount(vm=0, gfn=Gfn(2), level=1, task=VCPU, time_ns=second + 1_700_000),
        WriteTrackAdd(vm=0, gfn=Gfn(3), as_id=AsId(0), task=VMM),
        GuestWrite(vm=0, gfn=Gfn(1), task=VCPU),
        ShadowPageUnaccount(vm=0, gfn=Gfn(1), level=4, task=VCPU, time_ns=second + 1_800_000),
        Lost(vm=0, count=3, what="ring buffer overrun"),
        slot(3, 0, 0, 1900),
        VmDestroy(vm=0, task=VMM, time_ns=second + 2_000_000_000),
    ]


def write_kvmr(path: Path, events: Sequence[Event] | None = None, header: Header = HEADER, trailer: Trailer = TRAILER) -> Path:
    """Write a .kvmr recording and return its path."""
    with Writer(path, header) as writer:
        for item in items_of(boot() if events is None else events):
            writer.write(item)
        writer.finish(trailer)
    return path


def write_jsonl(path: Path, events: Sequence[Event] | None = None, header: Header = HEADER, trailer: Trailer = TRAILER) -> Path:
    """Write a .jsonl recording and return its path."""
    with JsonlWriter(path, header) as writer:
        for item in items_of(boot() if events is None else events):
            writer.write(item)
        writer.finish(trailer)
    return path


STRACE = """\
100 1795343281.000000 openat(AT_FDCWD, "/dev/kvm", O_RDWR|O_CLOEXEC) = 3</dev/kvm>
100 1795343281.000100 ioctl(3</dev/kvm>, KVM_CREATE_VM, 0) = 4<anon_inode:kvm-vm>
100 1795343281.000200 ioctl(4<anon_inode:kvm-vm>, KVM_SET_USER_MEMORY_REGION, {slot=0, flags=0, guest_phys_addr=0, \
memory_size=33554432, userspace_addr=0x7f041b600000}) = 0
100 1795343281.000300 ioctl(4<anon_inode:kvm-vm>, KVM_CREATE_VCPU, 0) = 5<anon_inode:kvm-vcpu:0>
100 1795343281.000400 close(5<anon_inode:kvm-vcpu:0>) = 0
100 1795343281.000500 close(4<anon_inode:kvm-vm>) = 0
100 1795343281.000600 exit_group(0) = ?
100 1795343281.000700 +++ exited with 0 +++
"""
FTRACE = """\
# tracer: nop
             vmm-100     [001] ..... 1795343281.000110: sys_ioctl(fd: 3, cmd: 0xae01, arg: 0x0)
             vmm-100     [001] ..... 1795343281.000120: sys_ioctl -> 0x4
             vmm-100     [001] ..... 1795343281.000210: sys_ioctl(fd: 4, cmd: 0x4020ae46, arg: 0x7ffe92ed8d40)
             vmm-100     [001] ..... 1795343281.000220: sys_ioctl -> 0x0
             vmm-100     [001] ..... 1795343281.000310: sys_ioctl(fd: 4, cmd: 0xae41, arg: 0x0)
             vmm-100     [001] ..... 1795343281.000320: sys_ioctl -> 0x5
"""


def kvm_replay(
    *arguments: str, cwd: Path = ROOT, stdin: bytes = b"", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "replay", *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        timeout=60,
        check=False,
    )
