"""Name the units and address spaces: gfn, gpa, hva, address space ids, slot ids, bytes, errno.

Every quantity of the model carries its unit in its type or in its name. `Gfn`, `Gpa` and `Hva` are distinct types, so that
mypy refuses a guest frame number where a host virtual address belongs.
"""

import errno as _errno
from typing import Final, NewType

Gfn = NewType("Gfn", int)
"""Guest frame number: a guest physical address shifted right by 12."""
Gpa = NewType("Gpa", int)
"""Guest physical address, in bytes."""
Hva = NewType("Hva", int)
"""Host virtual address of the VMM, in bytes."""
AsId = NewType("AsId", int)
"""Address space of a memslot: 0 ordinary, 1 System Management Mode."""
SlotId = NewType("SlotId", int)
"""Memslot id inside its address space, 0..32766."""

_YES: Final = dict.fromkeys(("y", "yes", "1", "true", "on"), True)
YES_NO: Final = _YES | dict.fromkeys(("n", "no", "0", "false", "off"), False)
"""Words for yes and no, wherever a user says a fact."""
PAGE_SHIFT: Final = 12
PAGE_SIZE_BYTES: Final = 1 << PAGE_SHIFT
U16_MAX: Final = (1 << 16) - 1
U32_MAX: Final = (1 << 32) - 1
U64_MAX: Final = (1 << 64) - 1

# The kernel's own numbers, not the platform's: a recording says the same on every machine that reads it.
# Source: include/uapi/asm-generic/errno-base.h and errno.h (x86 uses the generic numbers).
EPERM: Final = 1
EINTR: Final = 4
EIO: Final = 5
ENXIO: Final = 6
E2BIG: Final = 7
EBADF: Final = 9
EAGAIN: Final = 11
ENOMEM: Final = 12
EFAULT: Final = 14
EBUSY: Final = 16
EEXIST: Final = 17
ENODEV: Final = 19
EINVAL: Final = 22
ENOTTY: Final = 25
ENOENT: Final = 2
ESRCH: Final = 3
EOPNOTSUPP: Final = 95

_LINUX_NAMES: Final[dict[int, str]] = {
    1: "EPERM",
    2: "ENOENT",
    3: "ESRCH",
    4: "EINTR",
    5: "EIO",
    6: "ENXIO",
    7: "E2BIG",
    9: "EBADF",
    11: "EAGAIN",
    12: "ENOMEM",
    13: "EACCES",
    14: "EFAULT",
    16: "EBUSY",
    17: "EEXIST",
    19: "ENODEV",
    22: "EINVAL",
    24: "EMFILE",
    25: "ENOTTY",
    28: "ENOSPC",
    33: "EDOM",
    34: "ERANGE",
    38: "ENOSYS",
    75: "EOVERFLOW",
    95: "EOPNOTSUPP",
    105: "ENOBUFS",
    110: "ETIMEDOUT",
    114: "EALREADY",
    124: "EMEDIUMTYPE",
    133: "EHWPOISON",
}
_LINUX_NUMBERS: Final[dict[str, int]] = {name: number for number, name in _LINUX_NAMES.items()}


def errno_name(number: int) -> str:
    """Return the name of an errno, without sign: 12 gives "ENOMEM", an unknown one "errno 524".

    >>> errno_name(12)
    'ENOMEM'
    """
    number = abs(number)
    return _LINUX_NAMES.get(number) or _errno.errorcode.get(number) or f"errno {number}"


def errno_number(name: str) -> int | None:
    """Return the positive Linux number of an errno name, None for a name that is not one.

    >>> errno_number("EINVAL")
    22
    """
    known = _LINUX_NUMBERS.get(name)
    if known is not None:
        return known
    value = getattr(_errno, name, None) if name.startswith("E") else None
    return value if isinstance(value, int) else None


def ret_text(ret: int | None) -> str:
    """Say a system call's result as kernel people write it: 0, -ENOMEM, 5, or "?" when it is not known.

    >>> ret_text(-12), ret_text(0), ret_text(None)
    ('-ENOMEM', '0', '?')
    """
    if ret is None:
        return "?"
    return f"-{errno_name(ret)}" if ret < 0 else str(ret)


def fact_word(fact: object) -> str:
    """Say a fact as options take it and reports show it; nothing for what is not known.

    >>> fact_word(True), fact_word(False), fact_word(4096), fact_word(None)
    ('y', 'n', '4096', '')
    """
    if isinstance(fact, bool):
        return "y" if fact else "n"
    return "" if fact is None else str(fact)


def counted(number: int, word: str, plural: str = "") -> str:
    """Say how many there are of something. plural: of the word, when it is not the word and an s.

    >>> counted(1, "event"), counted(1200, "event"), counted(1, "loss", "losses")
    ('1 event', '1,200 events', '1 loss')
    """
    return f"{number:,} {word if number == 1 else plural or word + 's'}"


def bytes_text(size_bytes: int) -> str:
    """Say a size in the largest binary unit that keeps it readable; never rounds a small exact number away.

    >>> bytes_text(4096), bytes_text(6 << 20), bytes_text(712 * 1024)
    ('4 KiB', '6 MiB', '712 KiB')
    """
    sign = "-" if size_bytes < 0 else ""
    size = abs(size_bytes)
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            whole, rest = divmod(size, factor)
            return f"{sign}{whole} {unit}" if not rest else f"{sign}{size / factor:.2f} {unit}"
    return f"{sign}{size} B"


def gfn_of(gpa_bytes: int) -> Gfn:
    """Return the frame that holds a guest physical address.

    >>> gfn_of(0x5000)
    5
    """
    return Gfn(gpa_bytes >> PAGE_SHIFT)


def pages_of(size_bytes: int) -> int:
    """Return how many whole pages a page-aligned size has."""
    return size_bytes >> PAGE_SHIFT
