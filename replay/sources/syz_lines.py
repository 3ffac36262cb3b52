"""Read lines of syzkaller programs: `rN = call$variant(arguments) (fail_nth: 3, async)`.

Values: numbers, rN (the result of an earlier call), nil, AUTO, 'text', "hex bytes", {structs}, [arrays], @union=value,
&(address/length)=value, <rN=>value. Lines of the log of a fuzzing run may hold times before the call; they are no programs.
"""

import re
from typing import Final

import attrs

DEPTH_MAX: Final = 32
"""Deepest nesting of values that is read."""
_CALL: Final = re.compile(r"(?:(r\d{1,6}) = )?([A-Za-z_]\w*)(?:\$(\w+))?\(")
_WORD: Final = re.compile(r"(?:0x[0-9a-fA-F]{1,16}|\d{1,20}|[A-Za-z_]\w*)")
_STRING: Final = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"(?:/\d+)?|`[^`]*`(?:/\d+)?")
_POINTER: Final = re.compile(r"&(?:\([^()]{0,80}\)|AUTO)(=)?")
_PROPERTY: Final = re.compile(r"\s*(\w+)(?::\s*(\d{1,9}))?\s*")
_CLOSES: Final = {"{": "}", "[": "]"}


class _NoProgramError(ValueError):
    """The text is no value of the language."""


@attrs.frozen
class Pointer:
    """An address that the program fills: what it points to, None for nil or memory alone. address: None for AUTO."""

    address: int | None
    to: "Value"


@attrs.frozen
class Name:
    """A resource (rN) or a word such as nil, AUTO or ANY."""

    word: str


Value = int | str | Name | Pointer | tuple["Value", ...] | None


@attrs.frozen
class Call:
    """One call: the resource that it makes ("" for none), its name, variant, arguments and properties."""

    makes: str
    name: str
    variant: str
    args: tuple[Value, ...]
    properties: dict[str, int]


def call_of(line: str) -> Call | None:
    """Parse one line; None for one that is no call of a program.

    >>> call_of("r1 = ioctl$KVM_CREATE_VM(r0, 0xae01, 0x0) (fail_nth: 3)").properties
    {'fail_nth': 3}
    """
    match = _CALL.match(line)
    if match is None:
        return None
    try:
        args, place = _values(line, match.end(), ")", 0)
        properties = _properties(line[place:].strip())
    except _NoProgramError:
        return None
    return Call(match[1] or "", match[2], match[3] or "", args, properties)


def _properties(text: str) -> dict[str, int]:
    if not text:
        return {}
    if text[0] != "(" or text[-1] != ")":
        raise _NoProgramError
    found: dict[str, int] = {}
    for part in text[1:-1].split(","):
        match = _PROPERTY.fullmatch(part)
        if match is None:
            raise _NoProgramError
        found[match[1]] = int(match[2] or 1)
    return found


def _values(line: str, place: int, closes: str, depth: int) -> tuple[tuple[Value, ...], int]:
    """Parse values up to a closing bracket; return them and the place behind it."""
    if depth > DEPTH_MAX:
        raise _NoProgramError
    found: list[Value] = []
    place = _skip(line, place)
    while line[place : place + 1] != closes:
        value, place = _value(line, place, depth)
        found.append(value)
        place = _skip(line, place)
        if line[place : place + 1] == ",":
            place = _skip(line, place + 1)
        elif line[place : place + 1] != closes:
            raise _NoProgramError
    return tuple(found), place + 1


def _value(line: str, place: int, depth: int) -> tuple[Value, int]:
    char = line[place : place + 1]
    if char in _CLOSES:
        return _values(line, place + 1, _CLOSES[char], depth + 1)
    if char == "&":
        return _pointer(line, place, depth)
    if char == "<":  # <r5=>0x0: the kernel writes a resource here
        end = line.find("=>", place)
        if end < 0 or depth > DEPTH_MAX:
            raise _NoProgramError
        return _value(line, end + 2, depth + 1)
    if char == "@":
        return _union(line, place, depth)
    if char and char in "'\"`":
        match = _STRING.match(line, place)
        if match is None:
            raise _NoProgramError
        return match[0], match.end()
    return _word(line, place, depth)


def _word(line: str, place: int, depth: int) -> tuple[Value, int]:
    match = _WORD.match(line, place)
    if match is None or depth > DEPTH_MAX:
        raise _NoProgramError
    word, place = match[0], match.end()
    if line[place : place + 2] == "=[" or line[place : place + 2] == '="':  # ANY=[...]: a value squashed to bytes
        _, place = _value(line, place + 1, depth + 1)
    if not word[0].isdigit():
        return Name(word), place
    return int(word, 16) if word[:2] in {"0x", "0X"} else int(word), place


def _pointer(line: str, place: int, depth: int) -> tuple[Value, int]:
    match = _POINTER.match(line, place)
    if match is None or depth > DEPTH_MAX:
        raise _NoProgramError
    found = re.match(r"&\((0x[0-9a-fA-F]{1,16})", match[0])
    address = None if found is None else int(found[1], 16)
    if match[1] is None:
        return Pointer(address, None), match.end()
    to, place = _value(line, match.end(), depth + 1)
    return Pointer(address, None if to == Name("nil") else to), place


def _union(line: str, place: int, depth: int) -> tuple[Value, int]:
    match = _WORD.match(line, place + 1)
    if match is None or depth > DEPTH_MAX:
        raise _NoProgramError
    if line[match.end() : match.end() + 1] != "=":
        return Name(match[0]), match.end()
    return _value(line, match.end() + 1, depth + 1)


def _skip(line: str, place: int) -> int:
    while line[place : place + 1] == " ":
        place += 1
    return place
