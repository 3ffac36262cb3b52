"""Read one line of a slotprobe result: an operation that was done on a real kernel, and what that kernel then looked like.

slotprobe runs a script of KVM operations and prints one JSON object an operation: `n`, `op`, `ret`, `err`, `kvm` (what
/proc/vmallocinfo gained and lost, by allocating function), and for some operations `dump`, `trace`, `cg`, `made`, `par`.
The last line of a file holds `exit` instead: the status that slotprobe ended with.
"""

import json
from typing import Any, Final

import attrs

from replay.errors import TraceSyntaxError
from replay.units import U32_MAX, U64_MAX, errno_number

WORDS_MAX: Final = 24
"""Most words of an operation, as in slotprobe."""


@attrs.frozen(kw_only=True)
class LabLine:
    """One operation with its result. ret: 0, a number, or -errno; None when the errno has no name.

    areas: (site, areas added, pages added, areas freed, pages freed). extra: all other members, not yet looked at.
    """

    number: int
    words: tuple[str, ...]
    ret: int | None
    module_refused: bool
    label: str
    areas: tuple[tuple[str, int, int, int, int], ...]
    extra: dict[str, Any]


@attrs.frozen
class LabEnd:
    """How slotprobe ended, in words; "" for an end as it should be."""

    what: str


def parse_line(text: str, where: str) -> LabLine | LabEnd:
    """Parse one line of a result. Raises TraceSyntaxError."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        advice = "only the last operation of a result may be cut off"
        raise TraceSyntaxError("not JSON", where=where, expected="a line of slotprobe", advice=advice) from error
    if not isinstance(found, dict):
        raise TraceSyntaxError(f"a JSON {type(found).__name__}", where=where, expected="an object")
    if "op" not in found:
        end = _end(found, where)
        if end is not None:
            return end
    words = tuple(_text(found, "op", where).split())
    if not 0 < len(words) <= WORDS_MAX:
        raise TraceSyntaxError(f"an operation of {len(words)} words", where=where, expected=f"1 to {WORDS_MAX}")
    return LabLine(
        number=number(found.get("n"), U32_MAX, f"{where}, n"),
        words=words,
        ret=result_of(found, where),
        module_refused=found.get("wt_ioctl") is False,
        label=_text(found, "label", where)[:256] if "label" in found else "",
        areas=_areas(found.get("kvm", {}), where),
        extra=found,
    )


def _end(found: dict[str, Any], where: str) -> LabEnd | None:
    """Return the end that a line without operation tells; None when it tells none."""
    if "exit" in found:
        status = number(found["exit"], U32_MAX, f"{where}, exit")
        return LabEnd(f"the probe was ended with status {status}" if status else "")
    if "fatal" in found:
        return LabEnd(f"the probe gave up: {_text(found, 'fatal', where)[:64]}")
    return LabEnd("the kernel died") if found.get("crashed") is True else None


def is_cut(text: str) -> bool:
    """Tell whether a line is an operation that was not written to its end."""
    return text.startswith("{") and not text.rstrip().endswith("}")


def number(value: Any, most: int, where: str) -> int:
    """Return an unsigned number of bounded size. Raises TraceSyntaxError for anything else."""
    if type(value) is not int or not 0 <= value <= most:
        raise TraceSyntaxError(f"{str(value)[:40]!r}", where=where, expected=f"a number from 0 to {most}")
    return value


def _text(found: dict[str, Any], name: str, where: str) -> str:
    value = found.get(name)
    if not isinstance(value, str):
        raise TraceSyntaxError(f"{name} is {str(value)[:40]!r}", where=where, expected="a text")
    return value


def result_of(found: dict[str, Any], where: str) -> int | None:
    """Return the result of an operation as the kernel gives it: `ret`, or -errno when `err` names one."""
    name, ret = _text(found, "err", where), found.get("ret")
    if name == "0":
        if type(ret) is not int or not -U32_MAX <= ret <= U64_MAX >> 1:
            raise TraceSyntaxError(f"ret is {str(ret)[:40]!r}", where=where, expected="a number")
        return ret
    errno = number(found["errno"], 4095, f"{where}, errno") if name == "?" and "errno" in found else errno_number(name)
    return None if errno is None else -errno


def _areas(found: Any, where: str) -> tuple[tuple[str, int, int, int, int], ...]:
    if not isinstance(found, dict) or len(found) > 256:
        raise TraceSyntaxError("kvm is not a small object", where=where, expected='{"allocating function": [4 numbers]}')
    rows = []
    for site, row in found.items():
        if not isinstance(row, list) or len(row) != 4 or not 0 < len(site) <= 64:
            raise TraceSyntaxError(f"kvm has {str(row)[:40]!r}", where=where, expected="areas and pages, added and freed")
        areas_added, pages_added, areas_freed, pages_freed = (number(cell, U32_MAX, f"{where}, kvm") for cell in row)
        rows.append((site, areas_added, pages_added, areas_freed, pages_freed))
    return tuple(rows)
