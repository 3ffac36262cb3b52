"""Check a memslot request in the kernel's order, as a table: which row refuses it, with which errno.

The order is what decides the errno of a request that is wrong in two ways. Rows are tried from the top; the first that fits
answers. Source of each row: its `source`; the whole: virt/kvm/kvm_main.c kvm_vm_ioctl(), kvm_vm_ioctl_set_memory_region(),
check_memory_region_flags(), __kvm_set_memory_region() [6.1.192, 6.12.117], and measured on 6.18.44.
"""

from collections.abc import Callable
from functools import cache
from typing import Final

import attrs

from replay.kvm.memslot import Arch, Memslot
from replay.kvm.release import Release
from replay.kvm.uapi import (
    KVM_MEM_GUEST_MEMFD,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_MAX_NR_PAGES,
    KVM_MEM_READONLY,
    KVM_MEM_SLOTS_NUM,
    KVM_USER_MEM_SLOTS,
    KVM_X86_SEV_ES_VM,
    KVM_X86_SNP_VM,
    KVM_X86_TDX_VM,
)
from replay.kvm.vm import Vm, has_private_mem
from replay.units import EEXIST, EFAULT, EINVAL, EIO, ENOTTY, PAGE_SHIFT, PAGE_SIZE_BYTES, U64_MAX

Newborn = list[Arch | None]
"""What the first of several lanes hung on its new slot: of those without write tracking, and of those with it."""


@attrs.define(eq=False)
class Request:
    """One call of KVM_SET_USER_MEMORY_REGION(2), or an internal slot that the kernel itself sets."""

    vm: Vm
    slot: int
    flags: int
    guest_phys_addr: int
    memory_size: int
    userspace_addr: int
    guest_memfd_offset: int = 0
    region2: bool = False
    fault: bool = False
    foreign_mm: bool = False
    internal: bool = False
    bind_errno: int = 0
    """-errno that kvm_gmem_bind() gave on the recorded kernel: the guest_memfd itself is not modelled."""
    old: Memslot | None = None
    as_id: int = attrs.field(init=False)
    """Address space: upper half of the slot field."""
    id: int = attrs.field(init=False)
    """Slot id: lower half of the slot field."""
    npages: int = attrs.field(init=False)
    """Size in pages."""
    base_gfn: int = attrs.field(init=False)
    """First gfn."""
    answers: dict[int, "Row | None"] = attrs.field(init=False, factory=dict)
    """Which check of the arguments refuses it, by what of the VM decides that."""
    newborn: "Newborn | None" = None
    """None when only one lane asks."""

    def __attrs_post_init__(self) -> None:
        self.as_id, self.id = self.slot >> 16, self.slot & 0xFFFF
        self.npages, self.base_gfn = self.memory_size >> PAGE_SHIFT, self.guest_phys_addr >> PAGE_SHIFT

    @property
    def release(self) -> Release:
        """Release of the lane."""
        return self.vm.profile.release


def valid_flags(request: Request) -> int:
    """Return the flags that check_memory_region_flags() lets through.

    Source: virt/kvm/kvm_main.c check_memory_region_flags() [6.1: LOG_DIRTY|READONLY; 6.12]; a default VM may use guest_memfd
    on 6.18 [measured on 6.18.44].
    """
    if not request.release.at_least(6, 8):
        return KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY
    valid = KVM_MEM_LOG_DIRTY_PAGES
    if has_private_mem(request.vm.type) or request.release.at_least(6, 18):
        valid |= KVM_MEM_GUEST_MEMFD
    if request.flags & KVM_MEM_GUEST_MEMFD:
        return valid & ~KVM_MEM_LOG_DIRTY_PAGES
    # kvm_arch_has_readonly_mem(): not with protected state (SEV-ES, SNP, TDX) [6.12].
    protected = request.vm.type in (KVM_X86_SEV_ES_VM, KVM_X86_SNP_VM, KVM_X86_TDX_VM)
    return valid if protected else valid | KVM_MEM_READONLY


def user_ptr_end(release: Release, *, la57: bool) -> int:
    """Return the largest end of a user buffer that __access_ok() lets through, from 6.4 on.

    Only the sign is tested at first (6014bc27561f, 6.4): non-canonical addresses pass. 86e6b1547b3d (6.12, 6.11.6) compares with
    USER_PTR_MAX, TASK_SIZE_MAX - 1, so that a buffer may not end where user memory ends; 573f45a9f9a4 (6.13, 6.12.2, 6.11.11)
    corrects that to TASK_SIZE_MAX. Source: arch/x86/include/asm/uaccess_64.h __access_ok(), arch/x86/kernel/cpu/common.c.
    """
    if not release.at_least(6, 11, 6):
        return (1 << 63) - 1
    eleven = (release.major, release.minor) == (6, 11)
    corrected = release.at_least(6, 11, 11) if eleven else release.at_least(6, 12, 2)
    return task_size_max(la57=la57) - (0 if corrected else 1)


def task_size_max(*, la57: bool) -> int:
    """Return TASK_SIZE_MAX: 2^47 less a page, 2^56 less a page with five-level paging.

    Source: arch/x86/include/asm/page_64.h task_size_max() [6.12]; TASK_SIZE_MAX [6.1].
    """
    return (1 << (56 if la57 else 47)) - PAGE_SIZE_BYTES


def access_ok(request: Request) -> bool:
    """Tell whether the hva range may be user memory.

    Source: include/asm-generic/access_ok.h [6.1]: size <= TASK_SIZE_MAX and start <= TASK_SIZE_MAX - size;
    arch/x86/include/asm/uaccess_64.h __access_ok() [6.4 and later]: start + size does not wrap, and see user_ptr_end().
    """
    la57 = request.vm.profile.la57
    end = (request.userspace_addr + request.memory_size) & U64_MAX
    if request.release.at_least(6, 4):
        return request.userspace_addr <= end <= user_ptr_end(request.release, la57=la57)
    limit = task_size_max(la57=la57)
    return request.memory_size <= limit and request.userspace_addr <= limit - request.memory_size


@attrs.frozen
class Row:
    """One check. stage: when it runs. applies: kernels that have it. refuses: whether this request fails it."""

    name: str
    stage: str
    errno: int
    refuses: Callable[[Request], bool]
    source: str
    applies: Callable[[Release], bool] = lambda _release: True


def _unaligned(size_bytes: int) -> bool:
    return size_bytes % PAGE_SIZE_BYTES != 0


def _since_6_8(release: Release) -> bool:
    return release.at_least(6, 8)


def _gmem_toggle_checked(release: Release) -> bool:
    # 9935df5333aa ("KVM: Disallow toggling KVM_MEM_GUEST_MEMFD on an existing memslot", 6.19), in 6.18.3 and 6.12.64.
    return release.at_least(6, 18, 3) or (release.at_least(6, 12, 64) and not release.at_least(6, 13))


NOT_THERE: Final = "delete of a slot that is not there"
_MAIN: Final = "virt/kvm/kvm_main.c"
_SET: Final = f"{_MAIN} __kvm_set_memory_region() [6.1, 6.12]"

CHECKS: Final[tuple[Row, ...]] = (
    Row("foreign mm or dead VM", "ioctl", EIO, lambda r: r.foreign_mm or r.vm.vm_bugged, f"{_MAIN} kvm_vm_ioctl() [6.1, 6.12]"),
    Row(
        "REGION2 is not there before 6.8",
        "ioctl",
        ENOTTY,
        lambda r: r.region2,
        "arch/x86/kvm/x86.c kvm_arch_vm_ioctl() default [6.1]",
        lambda release: not release.at_least(6, 8),
    ),
    Row("unreadable argument", "ioctl", EFAULT, lambda r: r.fault, f"{_MAIN} kvm_vm_ioctl() copy_from_user [6.1, 6.12]"),
    Row(
        "flag of REGION2 in REGION",
        "ioctl",
        EINVAL,
        lambda r: not r.region2 and bool(r.flags & ~(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY)),
        f"{_MAIN} kvm_vm_ioctl() KVM_SET_USER_MEMORY_REGION_V1_FLAGS [6.12]",
        _since_6_8,
    ),
    Row(
        "id of an internal slot",
        "ioctl",
        EINVAL,
        lambda r: r.id >= KVM_USER_MEM_SLOTS,
        f"{_MAIN} kvm_vm_ioctl_set_memory_region() [6.1, 6.12]",
    ),
    Row(
        "unknown flag",
        "region",
        EINVAL,
        lambda r: bool(r.flags & ~valid_flags(r)),
        f"{_MAIN} check_memory_region_flags() [6.1, 6.12]",
    ),
    Row("memory_size not page aligned", "region", EINVAL, lambda r: _unaligned(r.memory_size), _SET),
    Row("guest_phys_addr not page aligned", "region", EINVAL, lambda r: _unaligned(r.guest_phys_addr), _SET),
    Row(
        "userspace_addr not page aligned or not user memory",
        "region",
        EINVAL,
        lambda r: _unaligned(r.userspace_addr) or not access_ok(r),
        _SET,
    ),
    Row(
        "guest_memfd_offset unaligned or wraps",
        "region",
        EINVAL,
        lambda r: (
            bool(r.flags & KVM_MEM_GUEST_MEMFD)
            and (_unaligned(r.guest_memfd_offset) or r.guest_memfd_offset + r.memory_size > U64_MAX)
        ),
        f"{_MAIN} __kvm_set_memory_region() [6.12]",
        _since_6_8,
    ),
    Row("no such address space or id", "region", EINVAL, lambda r: r.as_id >= r.vm.nas or r.id >= KVM_MEM_SLOTS_NUM, _SET),
    Row(
        "guest_phys_addr + memory_size wraps",
        "region",
        EINVAL,
        lambda r: (r.guest_phys_addr + r.memory_size) & U64_MAX < r.guest_phys_addr,
        _SET,
    ),
    Row(
        "more pages than a slot can have",
        "region",
        EINVAL,
        lambda r: r.npages > KVM_MEM_MAX_NR_PAGES and not (r.release.at_least(6, 14) and r.id >= KVM_USER_MEM_SLOTS),
        f'{_SET}; internal slots are exempt from 6.14 on ("KVM: Do not restrict the size of KVM-internal memory regions")',
    ),
    Row(NOT_THERE, "delete", EINVAL, lambda r: r.old is None, _SET),
    Row(
        "delete of more pages than there are",
        "delete",
        EIO,
        lambda r: r.old is not None and r.vm.nr_memslot_pages < r.old.npages,
        _SET,
    ),
    Row("page count of the VM wraps", "create", EINVAL, lambda r: r.vm.nr_memslot_pages + r.npages > U64_MAX, _SET),
    Row(
        "guest_memfd slot is immutable",
        "change",
        EINVAL,
        lambda r: bool(r.flags & KVM_MEM_GUEST_MEMFD),
        f"{_MAIN} __kvm_set_memory_region() [6.12]; an identical repeat is refused too [6.18.44]",
        _since_6_8,
    ),
    Row(
        "userspace_addr or memory_size of a live slot changes",
        "change",
        EINVAL,
        lambda r: r.old is not None and (r.userspace_addr != r.old.userspace_addr or r.npages != r.old.npages),
        _SET,
    ),
    Row(
        "READONLY of a live slot changes",
        "change",
        EINVAL,
        lambda r: r.old is not None and bool((r.flags ^ r.old.flags) & KVM_MEM_READONLY),
        _SET,
    ),
    Row(
        "GUEST_MEMFD of a live slot changes",
        "change",
        EINVAL,
        lambda r: r.old is not None and bool((r.flags ^ r.old.flags) & KVM_MEM_GUEST_MEMFD),
        f"{_MAIN} __kvm_set_memory_region() [6.12.64 and later 6.12, 6.18.3 and later]; 9935df5333aa",
        _gmem_toggle_checked,
    ),
    Row(
        "overlaps another slot",
        "place",
        EEXIST,
        lambda r: r.vm.spaces[r.as_id].overlaps(r.base_gfn, r.base_gfn + r.npages, r.id),
        f"{_MAIN} kvm_check_memslot_overlap() [6.1, 6.12]",
    ),
)


def refusal(request: Request, stage: str) -> Row | None:
    """Return the first check of a stage that refuses the request, None when all let it pass.

    Source: the rows. Stages in order: ioctl (not for internal slots), region, then delete, create or change, then place.
    """
    for row in _checks(request.vm.profile.release, stage):
        if row.refuses(request):
            return row
    return None


def refused_by_arguments(request: Request) -> Row | None:
    """Return the first check of the stages ioctl and region that refuses the request, None when all let it pass.

    These stages look at the arguments, at what kernel and VM it is, and at whether the VM is dead, never at its slots. So their
    answer is remembered: each lane of a replay asks anew. Source: the rows.
    """
    vm, answers = request.vm, request.answers
    facts = vm.check_facts << 1 | vm.vm_bugged
    if facts in answers:
        return answers[facts]
    row = None if request.internal else refusal(request, "ioctl")
    row = answers[facts] = row or refusal(request, "region")
    return row


@cache
def _checks(release: Release, stage: str) -> tuple[Row, ...]:
    """Return the checks of a stage that a release has; asked for a few times for each memslot request."""
    return tuple(row for row in CHECKS if row.stage == stage and row.applies(release))


CREATE: Final = "create"
DELETE: Final = "delete"
MOVE: Final = "move"
FLAGS_ONLY: Final = "flags_only"
UNCHANGED: Final = "unchanged"
FAILED: Final = "failed"


def classify(request: Request) -> str:
    """Return what a request that passed the stages ioctl and region asks for.

    Source: virt/kvm/kvm_main.c __kvm_set_memory_region() [6.1, 6.12]: size 0 deletes; a moved base is MOVE even when flags
    change in the same call.
    """
    if not request.npages:
        return DELETE
    if request.old is None:
        return CREATE
    if request.base_gfn != request.old.base_gfn:
        return MOVE
    return FLAGS_ONLY if request.flags != request.old.flags else UNCHANGED


_LATER: Final = {
    DELETE: ("delete",),
    CREATE: ("create", "place"),
    MOVE: ("change", "place"),
    FLAGS_ONLY: ("change",),
    UNCHANGED: ("change",),
}
"""Stages of checks behind those of the arguments, by what is asked for."""


def refused_by_slots(request: Request, change: str) -> Row | None:
    """Return the first check behind those of the arguments that refuses a request, None for none. Source: the rows."""
    for row in _later_checks(request.vm.profile.release, change):
        if row.refuses(request):
            return row
    return None


@cache
def _later_checks(release: Release, change: str) -> tuple[Row, ...]:
    return tuple(row for stage in _LATER[change] for row in _checks(release, stage))
