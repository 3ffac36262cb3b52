"""Make recordings/real/ from captures of real VMMs, and its golden files.

`python tests/real/captured.py CAPTURES` imports CAPTURES/<capture>/strace.txt and ftrace.txt (plain or compressed) anew;
without an argument it only rewrites the golden files from the recordings that are there. The table says which captures, what
they show. Facts of the machine are those of the host that they were made on.
"""

import sys
from pathlib import Path

import attrs

from replay.golden.files import Wish, update_golden
from replay.golden.questions import question_of
from replay.header import Machine
from replay.recording import Writer
from replay.runs import Item, Run
from replay.sources import open_stream

REAL = Path(__file__).resolve().parent.parent.parent / "recordings" / "real"
HOST = Machine(
    kernel_release="6.18.44",
    config_external_write_tracking=False,
    tdp=False,
    tdp_mmu=False,
    smm=False,
    vendor="pvm",
    la57=False,
    max_phys_bits=52,
)
"""A virtual machine host with shadow paging; its kernel has no external users of write tracking."""
QUESTIONS = (question_of("compare"), question_of("compare --profile release=6.8,config=y,tdp=1"))
"""The question of the recordings: what would a distribution kernel with KVMGT built in have paid, before and after 6.9?"""


@attrs.frozen
class Real:
    """One recording. capture: folder that it was imported from. events_max: where it is cut, 0 for not at all."""

    name: str
    capture: str
    title: str
    events_max: int = 0


RECORDINGS = (
    Real("gvisor-echo", "runsc-echo", "gVisor, KVM platform: runsc do echo hi"),
    Real("qemu-std-vga-boot", "qemu-pc-stdvga", "QEMU 7.2 pc, 256 MiB, std VGA: SeaBIOS boot"),
    Real("qemu-smp4-boot", "qemu-pc-novga-smp4", "QEMU 7.2 pc, 256 MiB, no VGA, 4 vCPUs: SeaBIOS boot"),
    Real("qemu-isapc-boot", "qemu-isapc", "QEMU 7.2 isapc, 64 MiB, Cirrus VGA: SeaBIOS boot"),
    Real("qemu-ovmf-boot", "qemu-ovmf-q35", "QEMU 7.2 q35, 256 MiB, OVMF: first 30 s of the firmware"),
    Real("qemu-microvm-boot", "qemu-microvm", "QEMU 7.2 microvm, 256 MiB: boot"),
    Real("qemu-migration", "qemu-migrate-file", "QEMU 7.2 pc, 256 MiB: boot, then migration to a file"),
    Real("qemu-savevm", "qemu-savevm", "QEMU 7.2 pc, 128 MiB: boot, savevm, loadvm"),
    Real("qemu-resets", "qemu-resets", "QEMU 7.2 pc, 256 MiB: boot and three system_reset"),
    Real("qemu-dimm-hotplug", "qemu-hotplug-dimm", "QEMU 7.2 pc, 256 MiB: two DIMMs hot-plugged"),
    Real("qemu-16g-boot", "qemu-8g-hugeslots", "QEMU 7.2 q35, 16 GiB: boot"),
    Real("qemu-killed", "kill-qemu-0.25", "QEMU 7.2 pc, 256 MiB: SIGKILL while the BIOS rearranges memory"),
    Real("strace-killed", "kill-strace", "QEMU 7.2 pc, 256 MiB: strace killed, its last line is cut"),
    Real("qemu-attached-late", "attach-late", "QEMU 7.2 pc, 256 MiB: strace attached 4 s after the start"),
    Real("fd-dup", "fd-dup", "VM fd duplicated by dup, dup2 and F_DUPFD"),
    Real("fd-errors", "fd-errors", "memslot calls that are wrong in every way, and right ones between them"),
    Real("fd-fork", "fd-fork", "a forked child uses the VM fd: -EIO"),
    Real("fd-many", "fd-many", "4000 memslots of one page, half of them deleted again"),
    Real("fd-reuse", "fd-reuse", "one fd number: a VM, /dev/null, another VM"),
    Real("fd-scm", "fd-scm", "VM fd sent over a socket; the receiver's calls are -EIO"),
    Real("fd-sigkill-held", "fd-sigkill_fdheld", "VMM killed while another process holds the VM fd"),
    Real("fd-threads", "fd-threads", "six threads create and delete memslots at once"),
    Real("region2", "mem2", "KVM_SET_USER_MEMORY_REGION2, whose arguments strace does not show"),
    Real(
        "shadow-pages-roles", "role-flips-churn", "shadow pages under changing roles, memslots re-created, dirty logging", 16_000
    ),
    Real("shadow-pages-two-vms", "two-shadow-vms", "two shadow-paged VMs at once whose gfns collide", 16_000),
    Real("shadow-pages-unsync", "um-mode1", "a guest that writes its own page tables"),
)


def make(real: Real, captures: Path) -> None:
    """Import one capture and write its recording."""
    folder = captures / real.capture
    traces = sorted([*folder.glob("strace.txt*"), *folder.glob("ftrace.txt*")])
    stream = open_stream([str(trace) for trace in traces])
    cut = f", its first {real.events_max:,} events" if real.events_max else ""
    provenance = f"capture {real.capture}{cut}: real run on Linux 6.18.44 with shadow paging, by strace 6.1 and tracefs"
    header = attrs.evolve(stream.header, title=real.title, machine=HOST, compression="zlib", provenance=provenance)
    with Writer(REAL / f"{real.name}.kvmr", header, overwrite=True) as writer:
        for item in stream.items():
            writer.write(_cut(item, real.events_max - writer.events) if real.events_max else item)
            if real.events_max and writer.events >= real.events_max:
                break
        writer.finish(attrs.evolve(stream.trailer(), counters=()) if real.events_max else stream.trailer())


def _cut(item: Item, room: int) -> Item:
    return item.select(range(min(len(item), room))) if isinstance(item, Run) else item


if __name__ == "__main__":
    for row in RECORDINGS:
        if len(sys.argv) > 1:
            make(row, Path(sys.argv[1]))
        update_golden(str(REAL / f"{row.name}.kvmr.golden"), Wish(questions=QUESTIONS))
