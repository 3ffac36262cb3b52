"""A VMM in few lines, to be recorded: memslots come, move and go, and a guest makes the shadow MMU track its page tables.

Usage: python small_vmm.py ROUNDS PAGES. ROUNDS: how often a slot is made, re-flagged, moved and deleted. PAGES: how many
page-table pages the guest uses and floods with writes; 0 runs no guest, -1 one whose KVM_RUN never returns. Prints what it asked,
for the test to compare.
Needs nothing but Python and /dev/kvm; where two-dimensional paging is on no page is shadowed.
"""

import ctypes
import fcntl
import itertools
import mmap
import os
import struct
import sys
import time

CREATE_VM, CREATE_VCPU, SET_REGION, RUN = 0xAE01, 0xAE41, 0x4020AE46, 0xAE80
GET_MMAP_SIZE, GET_CPUID, SET_CPUID2 = 0xAE04, 0xC008AE05, 0x4008AE90
GET_SREGS, SET_SREGS, SET_REGS = 0x8138AE83, 0x4138AE84, 0x4090AE82
GUEST_BYTES = 64 << 20
CODE_GPA, L4_GPA, L3_GPA, L2_GPA, TABLES_GPA = 0x8000, 0x1000, 0x2000, 0x3000, 0x800000
STEP = 8
"""Pages after which the guest says how far it is, by `out 0x10`."""
# A loop at CPL 3: take one of rdx page directories at rsi, map it, touch what it maps, unmap it, write to it r8 times; after rdi
# rounds it says so by `out 0x11`. Position independent; registers as in guest_registers().
CODE = bytes.fromhex(
    "4531c949bb447abfcb8d4039014c89d848c1e00d4931c34c89d848c1e8074931c34c89d848c1e0114931c34c89d84c8d52ff4c21d048c1e00c4801f0"
    "4989c449c70424870000004d89cd4981e5ff0000004981c5000100004c89e34883cb074a891ce94d89ee49c1e61e4d8bbe009000004ac704e9000000"
    "0031db4c39c3730e49c744dc080000000048ffc3ebed49ffc14985e975054c89c8e7104939f90f8269ffffff4c89c8e711ebfe"
)


def region(vm: int, slot: int, gpa: int, size: int, address: int, flags: int = 0) -> None:
    """Set a memslot."""
    fcntl.ioctl(vm, SET_REGION, struct.pack("<IIQQQ", slot, flags, gpa, size, address))


def quick(times: list[float], things: int) -> float:
    """Return the us that one of some things takes when nobody disturbs: a tenth of all steps are quicker, some oddly so."""
    steps = sorted(later - sooner for sooner, later in itertools.pairwise(times))
    return steps[len(steps) // 10] * 1e6 / things if steps else 0.0


def slots(vm: int, address: int, rounds: int) -> list[float]:
    """Make, re-flag, move and delete a slot of a MiB again and again; return when each round began."""
    times = [time.perf_counter()]
    for number in range(rounds):
        region(vm, 7, 0x10000000, 1 << 20, address)
        region(vm, 7, 0x10000000, 1 << 20, address, 1)
        region(vm, 7, 0x20000000 + (number << 21), 1 << 20, address, 1)
        region(vm, 7, 0, 0, 0)
        times.append(time.perf_counter())
    return times


def segment(selector: int, kind: int, *, long: bool) -> bytes:
    """Return a kvm_segment at CPL 3 that covers all."""
    return struct.pack("<QIHBBBBBBBBBB", 0, 0xFFFFFFFF, selector, kind, 1, 3, not long, 1, long, 1, 0, 0, 0)


def guest_registers(rounds: int) -> bytes:
    """Return kvm_regs: rax rbx rcx rdx rsi rdi rsp rbp r8..r15 rip rflags; rbp: the bits of a round that are 0 when it tells."""
    rounds, told = (1 << 62, (1 << 62) - 1) if rounds < 0 else (rounds, STEP - 1)
    words = [0, 0, L3_GPA, 256, TABLES_GPA, rounds, 0x7000, told, 6, *[0] * 7, CODE_GPA, 0x3002]
    return struct.pack("<18Q", *words)


def special_registers(vcpu: int) -> bytearray:
    """Return kvm_sregs for 64-bit paging at CPL 3."""
    sregs = bytearray(0x138)
    fcntl.ioctl(vcpu, GET_SREGS, sregs)
    data = segment(0x2B, 3, long=False)
    for place, found in enumerate((segment(0x33, 11, long=True), data, data, data, data, data)):
        sregs[place * 24 : place * 24 + 24] = found
    cr0 = 8 * 24 + 2 * 16
    struct.pack_into("<5Q", sregs, cr0, 0x80050033, 0, L4_GPA, 1 << 5, 0)
    struct.pack_into("<Q", sregs, cr0 + 40, 0x500)
    return sregs


def run_guest(kvm: int, vm: int, memory: mmap.mmap, pages: int) -> tuple[str, list[float]]:
    """Run the loop to its end; return how it ended, and when each STEP pages were done."""
    struct.pack_into("<Q", memory, L4_GPA, L3_GPA | 7)
    struct.pack_into("<Q", memory, L3_GPA, L2_GPA | 7)
    for index in range(512):
        struct.pack_into("<Q", memory, L2_GPA + 8 * index, index << 21 | 0x87)
    memory[CODE_GPA : CODE_GPA + len(CODE)] = CODE
    vcpu = fcntl.ioctl(vm, CREATE_VCPU, 0)
    run = mmap.mmap(vcpu, fcntl.ioctl(kvm, GET_MMAP_SIZE, 0))
    cpuid = bytearray(struct.pack("<II", 256, 0) + bytes(256 * 40))
    fcntl.ioctl(kvm, GET_CPUID, cpuid)
    fcntl.ioctl(vcpu, SET_CPUID2, cpuid)
    fcntl.ioctl(vcpu, SET_SREGS, bytes(special_registers(vcpu)))
    fcntl.ioctl(vcpu, SET_REGS, guest_registers(pages))
    times, port = [], 0x10
    while port == 0x10:
        fcntl.ioctl(vcpu, RUN, 0)
        times.append(time.perf_counter())
        reason, port = struct.unpack_from("<I", run, 8)[0], struct.unpack_from("<H", run, 34)[0]
        if reason != 2:
            return f"exit {reason}", times
    return "done" if port == 0x11 else f"port {port}", times


def main() -> None:
    """Do what the arguments say."""
    rounds, pages = map(int, sys.argv[1:3])
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    vm = fcntl.ioctl(kvm, CREATE_VM, 0)
    memory = mmap.mmap(-1, GUEST_BYTES)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    region(vm, 0, 0, GUEST_BYTES, address)
    calls = quick(slots(vm, address, rounds), 4)
    guest, times = run_guest(kvm, vm, memory, pages) if pages else ("none", [])
    print(f"created={rounds + 1} flagged={rounds} moved={rounds} deleted={rounds} guest={guest}")
    print(f"call_us={calls:.1f} page_us={quick(times, STEP):.1f}", flush=True)


if __name__ == "__main__":
    main()
