"""Read the arguments of system calls as strace prints them: fds with notes, structs, flag words, lists of fds."""

import re
from functools import lru_cache
from typing import Final

import attrs

from replay.sources.ioctls import ioctl_number

_NUMBER: Final = re.compile(r"-?(?:0x[0-9a-fA-F]+|\d+)")
_FD: Final = re.compile(r"(-?(?:0x[0-9a-fA-F]+|\d+))(?:<((?:[^<>]|<[^<>]*>)*)>)?")
_IOCTL: Final = re.compile(
    r"(-?(?:0x[0-9a-fA-F]+|\d+))(?:<((?:[^<>]|<[^<>]*>)*)>(?:\(deleted\))?)?, *"
    r"((?:_IOC\([^)]*\)|\w+)(?: /\* [^*]* \*/)?)(?:, *(.*))?$",
    re.DOTALL,
)
_FIELD: Final = re.compile(r"\b(\w+)=([^,{}]*)")
_CMSG: Final = re.compile(r"cmsg_type=(?:SCM_RIGHTS|0x1(?: /\* SCM_RIGHTS \*/)?), cmsg_data=\[")
_MAX_NUMBER: Final = (1 << 64) - 1

MEM_FLAGS: Final = {"KVM_MEM_LOG_DIRTY_PAGES": 1, "KVM_MEM_READONLY": 2, "KVM_MEM_GUEST_MEMFD": 4}
"""Source: include/uapi/linux/kvm.h, struct kvm_userspace_memory_region2."""
REGION_FIELDS: Final = ("slot", "flags", "guest_phys_addr", "memory_size", "userspace_addr")

_KNOWN_CHARS_MAX: Final = 256
"""Longest arguments that are remembered."""


@attrs.frozen
class Fd:
    """A file descriptor argument: its number, and what -y says of it (empty without -y)."""

    number: int
    note: str = ""


@attrs.frozen
class IoctlArgs:
    """The arguments of one ioctl: fd, the command as a number (None: not known) and as text, the third one as text."""

    fd: Fd
    cmd: int | None
    cmd_text: str
    arg: str


def number_of(text: str) -> int | None:
    """Return the number that a text starts with (decimal, hex, NULL), None when it is none or needs more than 64 bits.

    >>> number_of("0x1000"), number_of("NULL"), number_of("7</dev/kvm>"), number_of("KVM_X")
    (4096, 0, 7, None)
    """
    match = _NUMBER.match(text)
    if match is None:
        return 0 if text == "NULL" else None
    word = match[0]
    number = _int(word)
    return number if abs(number) <= _MAX_NUMBER else None


def _int(word: str) -> int:
    # int(word, 0) refuses "007"; strace prints octal only where this module does not look.
    sign, digits = (-1, word[1:]) if word[0] == "-" else (1, word)
    # 40 digits are more than 64 bits already: never convert what a hostile line makes long.
    return sign * (int(digits[:40], 16) if digits[:2] in {"0x", "0X"} else int(digits[:40]))


def fd_of(text: str) -> Fd | None:
    """Return the fd that a text starts with, None when it does not start with a number.

    >>> fd_of("4<anon_inode:kvm-vm>, 0")
    Fd(number=4, note='anon_inode:kvm-vm')
    """
    match = _FD.match(text)
    return None if match is None else Fd(_int(match[1]), match[2] or "")


def ioctl_args(args: str) -> IoctlArgs | None:
    """Split the arguments of an ioctl; a call cut after the command has an empty third one. None when it is none.

    >>> ioctl_args("0x4, 0x4020ae46 /* KVM_SET_USER_MEMORY_REGION */, 0x10").cmd == 0x4020AE46
    True
    """
    return _known_args(args) if len(args) <= _KNOWN_CHARS_MAX else _ioctl_args(args)


@lru_cache(maxsize=1 << 10)
def _known_args(args: str) -> IoctlArgs | None:
    """Split arguments once: a recording has the same ones again and again."""
    return _ioctl_args(args)


def _ioctl_args(args: str) -> IoctlArgs | None:
    match = _IOCTL.match(args)
    if match is None:
        return None
    fd, note, cmd, arg = match.groups()
    text = cmd[cmd.index("/* ") + 3 : -3] if cmd.endswith(" */") and "?" not in cmd else cmd
    return IoctlArgs(Fd(_int(fd), note or ""), ioctl_number(cmd), text, (arg or "").strip())


def flags_of(text: str, names: dict[str, int]) -> int | None:
    """Return the value of a `|`-joined flag word; None when a part of it is not known.

    >>> flags_of("KVM_MEM_LOG_DIRTY_PAGES|0x8", MEM_FLAGS), flags_of("0x8 /* KVM_MEM_??? */", MEM_FLAGS)
    (9, 8)
    """
    total = 0
    for part in text.split(" /*", 1)[0].split("|"):
        word = part.strip()
        value = names.get(word)
        if value is None:
            value = number_of(word)
        if value is None or value < 0:
            return None
        total |= value
    return total


def region_of(arg: str) -> dict[str, int] | None:
    """Return the fields of a printed struct kvm_userspace_memory_region(2); None for a pointer or a cut struct.

    >>> region_of("{slot=65541, flags=0, guest_phys_addr=0, memory_size=4096, userspace_addr=0x1000}")["slot"]
    65541
    """
    if arg[:1] != "{" or arg[-1:] != "}":
        return None
    fields: dict[str, int] = {}
    for name, text in _FIELD.findall(arg):
        value = flags_of(text, MEM_FLAGS) if name == "flags" else number_of(text)
        if value is None or value < 0:
            return None
        fields[name] = value
    return fields if all(name in fields for name in REGION_FIELDS) else None


def split_args(args: str) -> list[str]:
    r"""Split arguments at the commas outside brackets, notes and strings; what is cut or odd stays in one piece.

    >>> split_args('AT_FDCWD</a,b>, "x, \\"y", {a=1, b=[2, 3]}, 0')
    ['AT_FDCWD</a,b>', '"x, \\"y"', '{a=1, b=[2, 3]}', '0']
    """
    parts: list[str] = []
    depth, start, quoted, escaped = 0, 0, False, False
    for place, char in enumerate(args):
        if quoted:
            quoted = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            quoted = True
        elif char in "([{<":
            depth += 1
        elif char in ")]}>" and args[place - 1 : place + 1] not in {"=>", "->"}:
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(args[start:place].strip())
            start = place + 1
    tail = args[start:].strip()
    return [*parts, tail] if tail or parts else []


def rights_of(args: str) -> list[Fd]:
    """List the fds that a sendmsg or recvmsg carries (SCM_RIGHTS), in order.

    >>> rights_of("{..., msg_control=[{cmsg_len=20, cmsg_type=SCM_RIGHTS, cmsg_data=[5<anon_inode:kvm-vm>, 6]}]}, 0")
    [Fd(number=5, note='anon_inode:kvm-vm'), Fd(number=6, note='')]
    """
    fds: list[Fd] = []
    for opening in _CMSG.finditer(args):
        match = _FD.match(args, opening.end())
        while match is not None:
            fds.append(Fd(_int(match[1]), match[2] or ""))
            match = _FD.match(args, match.end() + 2) if args[match.end() : match.end() + 2] == ", " else None
    return fds
