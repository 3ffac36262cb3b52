"""Traces, lines and archives that are made to cost more than their size: long lines, deep lines, many tasks, bombs."""

import gzip
import lzma
from collections.abc import Callable
from typing import Final

from bombs import MIB

FIRST_LINE: Final = b'{"kvm-replay": "recording/1"}\n'
OPEN: Final = b'100 openat(AT_FDCWD, "/dev/kvm", O_RDWR|O_CLOEXEC) = 3</dev/kvm>\n'
CREATE: Final = b"100 ioctl(3</dev/kvm>, KVM_CREATE_VM, 0) = 4<anon_inode:kvm-vm>\n"
FTRACE: Final = b"# tracer: nop\n"
FTRACE_VM: Final = b"""\
 vmm-101 [001] ..... 16.000110: sys_ioctl(fd: 3, cmd: 0xae01, arg: 0x0)
 vmm-101 [001] ..... 16.000120: sys_ioctl -> 0x4
"""
BPFTRACE: Final = b"2980676276847 31770 31772 qemu-system-x86 IOCTL fd=11 cmd=ae01 arg=0 ret=5\n"
WORD: Final = b"_" * 500_000
"""What a pattern that starts anew at each character would look at 125,000 million times."""
SLOT: Final = b"{slot=0, flags=0, guest_phys_addr=0, memory_size=4096, userspace_addr=0x7f0000000000}"


def _numbered(line: str, count: int) -> bytes:
    return "".join(line.format(number=number, low=number % 1000) for number in range(count)).encode()


def strace_calls(count: int) -> bytes:
    """Return one task that sets a slot again and again."""
    return (
        OPEN
        + CREATE
        + b"100 ioctl(4<anon_inode:kvm-vm>, KVM_SET_USER_MEMORY_REGION, "
        + SLOT
        + b") = 0\n" * 1
        + (b"100 ioctl(4<anon_inode:kvm-vm>, KVM_SET_USER_MEMORY_REGION, " + SLOT + b") = 0\n") * count
    )


def strace_unfinished(count: int) -> bytes:
    """Return many tasks, each in a call that never returns."""
    return OPEN + _numbered("{number} ioctl(3</dev/kvm>, KVM_CREATE_VM, 0 <unfinished ...>\n", count)


def strace_vms(count: int) -> bytes:
    """Return one task that makes VMs and never closes them."""
    return OPEN + _numbered("100 ioctl(3</dev/kvm>, KVM_CREATE_VM, 0) = {number}<anon_inode:kvm-vm>\n", count)


def strace_tasks(count: int) -> bytes:
    """Return tasks that make each other and use the VM."""
    return OPEN + CREATE + _numbered("{number} clone(flags=CLONE_VM|CLONE_FILES) = 9{number}\n", count)


def strace_duplicates(count: int) -> bytes:
    """Return one task that duplicates its fd again and again."""
    return OPEN + CREATE + _numbered("100 dup(4<anon_inode:kvm-vm>) = {number}<anon_inode:kvm-vm>\n", count)


def strace_kinds(count: int) -> bytes:
    """Return calls of as many kinds, none of them known."""
    return OPEN + CREATE + _numbered("100 ioctl(4<anon_inode:kvm-vm>, _IOC(0, 0xae, {low}, {number}), 0) = 0\n", count)


def strace_long_line(count: int) -> bytes:
    """Return a line of that many pieces."""
    return OPEN + CREATE + b"100 ioctl(4<anon_inode:kvm-vm>, KVM_SET_USER_MEMORY_REGION, " + b"{slot=0, <" * count + b") = 0\n"


def tracefs_pages(count: int) -> bytes:
    """Return as many shadow pages, none of them zapped."""
    line = (
        " vmm-101 [000] ..... 17.{number:06}: kvm_mmu_get_page: sp gen 0 gfn {number:x} l2 8-byte q0 wux nxe ad root 0 sync new\n"
    )
    return FTRACE + FTRACE_VM + _numbered(line, count)


def tracefs_tasks(count: int) -> bytes:
    """Return as many tasks, each inside a call."""
    return (
        FTRACE + FTRACE_VM + _numbered(" vmm-{number} [001] ..... 17.{low:06}: sys_ioctl(fd: 3, cmd: 0xae01, arg: 0x0)\n", count)
    )


def jsonl_marks(count: int) -> bytes:
    """Return as many small events."""
    return FIRST_LINE + b'{"event": "mark", "text": ""}\n' * count + b'{"end": {"events": %d}}\n' % count


def jsonl_hot(count: int) -> bytes:
    """Return as many hot events."""
    return FIRST_LINE + _numbered('{{"event": "write_track.add", "vm": 0, "gfn": {number}}}\n', count)


def jsonl_blank(count: int) -> bytes:
    """Return as many empty lines."""
    return FIRST_LINE + b"\n" * count


GROWING: Final[dict[str, Callable[[int], bytes]]] = {
    "strace calls": strace_calls,
    "strace unfinished": strace_unfinished,
    "strace VMs": strace_vms,
    "strace tasks": strace_tasks,
    "strace duplicates": strace_duplicates,
    "strace kinds": strace_kinds,
    "strace long line": strace_long_line,
    "tracefs pages": tracefs_pages,
    "tracefs tasks": tracefs_tasks,
    "jsonl marks": jsonl_marks,
    "jsonl hot events": jsonl_hot,
    "jsonl blank lines": jsonl_blank,
}
"""Inputs that grow with a number, each in one way."""


def _zstd(window_log: int) -> bytes:
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=window_log)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(bytes(128 * MIB)) + packer.flush()


def _xz(dictionary: int) -> bytes:
    packer = lzma.LZMACompressor(filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": dictionary}])
    return b"".join([*(packer.compress(bytes(MIB)) for _ in range(128)), packer.flush()])


ARCHIVES: Final[dict[str, Callable[[], bytes]]] = {
    "gzip": lambda: gzip.compress(bytes(128 * MIB), 1),
    "gzip of one line": lambda: gzip.compress(OPEN + b"1" * (64 * MIB), 1),
    "xz": lambda: _xz(1 << 20),
    "xz with a window": lambda: _xz(1 << 30),
    "zstd": lambda: _zstd(20),
    "zstd with a window": lambda: _zstd(30),
    "zstd claim": lambda: b"\x28\xb5\x2f\xfd\xc0\x00" + (1 << 40).to_bytes(8, "little") + b"\x01\x00\x00",
}
"""Compressed files of which a part of a percent is as long as the whole."""

LINES: Final[dict[str, Callable[[], bytes]]] = {
    "lists in lists": lambda: FIRST_LINE + b"[" * 500_000,
    "many lists": lambda: FIRST_LINE + b'{"event": [' + b"[]," * 500_000 + b"[]]}\n",
    "digits": lambda: FIRST_LINE + b'{"event": ' + b"9" * (8 * MIB) + b"}\n",
    "a long text": lambda: FIRST_LINE + b'{"event": "mark", "text": "' + b"x" * (12 * MIB) + b'"}\n',
    "a line without end": lambda: FIRST_LINE + b'{"event": "' + b"x" * (40 * MIB),
    "a first line without end": lambda: b'{"kvm-replay": "' + b"x" * (40 * MIB),
    "a strace line without end": lambda: OPEN + b"100 ioctl(" + b"x" * (40 * MIB),
    "a word in strace": lambda: (
        OPEN + CREATE + b"100 ioctl(4<anon_inode:kvm-vm>, KVM_SET_USER_MEMORY_REGION, {" + WORD + b"}) = 0\n"
    ),
    "a word in bpftrace": lambda: BPFTRACE + b"2980676276848 31770 31772 qemu-system-x86 IOCTL fd=11 " + WORD + b"\n",
    "blanks in tracefs": lambda: FTRACE + FTRACE_VM + b"\t" * MIB + b"nothing\n",
    "a tracefs line without end": lambda: FTRACE + b" vmm-1 [001] ..... 17.000001: " + b"x" * (40 * MIB),
}
