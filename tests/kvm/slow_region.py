"""Check memslot requests for the slow model, as the kernel does: one `if` after the other.

Facts are a plain dict; `release` is a tuple of three numbers.
"""

from typing import Any

from replay.events import MemslotSet

Dict = dict[str, Any]
EIO, EFAULT, EEXIST, EINVAL, ENOTTY = 5, 14, 17, 22, 25


def entry_errno(vm: Dict, facts: Dict, event: MemslotSet) -> int:
    """Return the errno of the ioctl's entry, 0 for none."""
    new = facts["release"] >= (6, 8, 0)
    if vm["bugged"] or event.foreign_mm:
        return EIO
    if event.region2 and not new:
        return ENOTTY
    if event.fault:
        return EFAULT
    if new and not event.region2 and event.flags not in {0, 1, 2, 3}:
        return EINVAL
    if event.slot % 65536 >= 32764:
        return EINVAL
    return 0


def allowed_flags(vm: Dict, facts: Dict, flags: int) -> set[int]:
    """Return the flag bits that the kernel lets through for this request."""
    if facts["release"] < (6, 8, 0):
        return {1, 2}
    allowed = {1}
    if vm["type"] in {1, 4, 5} or facts["release"] >= (6, 18, 0):
        allowed.add(4)
    if flags & 4:
        allowed.discard(1)
    elif vm["type"] not in {3, 4, 5}:
        allowed.add(2)
    return allowed


def user_end(facts: Dict) -> int:
    """Return where user memory ends for the kernel's test of a pointer, which changed four times."""
    release = facts["release"]
    end: int = (2**56 if facts["la57"] else 2**47) - 4096
    if release < (6, 4, 0):
        return end  # compares with the end of user memory
    if release < (6, 11, 6):
        return 2**63 - 1  # looks at the sign only
    if release < (6, 11, 11) or (6, 12, 0) <= release < (6, 12, 2):
        return end - 1  # off by one
    return end


def request_errno(vm: Dict, facts: Dict, slot: int, flags: int, gpa: int, size: int, hva: int, event: MemslotSet | None) -> int:
    """Return the errno of the checks that come before the old slot is looked up, 0 for none."""
    for bit in range(32):
        if flags & 2**bit and 2**bit not in allowed_flags(vm, facts, flags):
            return EINVAL
    if size % 4096 or gpa % 4096 or hva % 4096:
        return EINVAL
    if hva + size > user_end(facts):
        return EINVAL
    if event is not None and flags & 4:
        offset = event.guest_memfd_offset
        if offset % 4096 or offset + size >= 2**64:
            return EINVAL
    if slot // 65536 >= vm["nas"] or slot % 65536 >= 32767:
        return EINVAL
    if gpa + size >= 2**64 and size:
        return EINVAL
    exempt = facts["release"] >= (6, 14, 0) and slot % 65536 >= 32764
    if size // 4096 > 2**31 - 1 and not exempt:
        return EINVAL
    return 0


def change_of(
    vm: Dict, facts: Dict, old: Dict | None, others: list[Dict], flags: int, base: int, npages: int, hva: int
) -> str | int:
    """Return what a request asks for, or the errno that it gets."""
    if npages == 0:
        return EINVAL if old is None else "delete"
    if old is None:
        change = "create"
    else:
        if facts["release"] >= (6, 8, 0) and flags & 4:
            return EINVAL
        if hva != old["hva"] or npages != old["npages"]:
            return EINVAL
        if flags & 2 != old["flags"] & 2:
            return EINVAL
        if flags & 4 != old["flags"] & 4 and memfd_toggle_refused(facts["release"]):
            return EINVAL
        change = "move" if base != old["base"] else "flags" if flags != old["flags"] else "nothing"
    if change in {"create", "move"}:
        for other in others:
            if base < other["base"] + other["npages"] and other["base"] < base + npages:
                return EEXIST
    return change


def memfd_toggle_refused(release: tuple[int, int, int]) -> bool:
    """Tell whether the kernel checks that GUEST_MEMFD stays: 6.12.64 and later 6.12, 6.18.3 on."""
    if release[:2] == (6, 12):
        return release[2] >= 64
    return release >= (6, 18, 3)
