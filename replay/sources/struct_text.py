"""Spell what an ioctl's pointer points to as strace would, for recorders that give the words themselves."""

from replay.sources import ioctls


def region_text(slot: int, flags: int, gpa: int, size: int, hva: int) -> str:
    """Return a struct kvm_userspace_memory_region as strace prints it."""
    return f"{{slot={slot}, flags={flags:#x}, guest_phys_addr={gpa:#x}, memory_size={size}, userspace_addr={hva:#x}}}"


def struct_text(cmd: int, words: list[int]) -> str:
    """Return the struct that an ioctl's pointer points to as strace would spell it, from its first six 64-bit words.

    "" for a command whose struct is not needed. Source: include/uapi/linux/kvm.h: struct kvm_userspace_memory_region(2),
    kvm_enable_cap, kvm_dirty_log, kvm_clear_dirty_log, kvm_create_guest_memfd; the identity map address is one u64.

    >>> struct_text(0x4020AE46, [1 << 32 | 5, 0x1000, 0x2000, 0x7F0000000000, 0, 0])
    '{slot=5, flags=0x1, guest_phys_addr=0x1000, memory_size=8192, userspace_addr=0x7f0000000000}'
    """
    if len(words) != 6:
        return ""
    low, high = words[0] & 0xFFFFFFFF, words[0] >> 32
    if cmd == ioctls.KVM_SET_USER_MEMORY_REGION:
        return region_text(low, high, *words[1:4])
    if cmd == ioctls.KVM_SET_USER_MEMORY_REGION2:
        text = region_text(low, high, *words[1:4])
        memfd = f", guest_memfd_offset={words[4]:#x}, guest_memfd={words[5] & 0xFFFFFFFF}"
        return text[:-1] + (memfd if high & 4 else "") + "}"
    if cmd == ioctls.KVM_ENABLE_CAP:
        return f"{{cap={low}, flags={high:#x}, args=[{', '.join(f'{word:#x}' for word in words[1:5])}]}}"
    if cmd == ioctls.KVM_GET_DIRTY_LOG:
        return f"{{slot={low}}}"
    if cmd == ioctls.KVM_CLEAR_DIRTY_LOG:
        return f"{{slot={low}, num_pages={high}, first_page={words[1]}}}"
    if cmd == ioctls.KVM_SET_IDENTITY_MAP_ADDR:
        return f"[{words[0]:#x}]"
    if cmd == ioctls.KVM_CREATE_GUEST_MEMFD:
        return f"{{size={words[0]}, flags={words[1]:#x}}}"
    return ""
