"""Read facts of the recorded machine from an argument: `--machine kernel_release=6.8,tdp=y`."""

from typing import TYPE_CHECKING

from replay.errors import UsageError
from replay.units import YES_NO

if TYPE_CHECKING:
    from replay.events.base import FieldSpec

_NOT_KNOWN = frozenset({"", "?", "unknown"})


def parse_machine(argument: str) -> dict[str, bool | int | str | None]:
    """Parse NAME=VALUE,... into the fields of `replay.header.Machine`; the value "?" or "unknown" takes a fact away.

    Raises UsageError for a name that is not a fact, a value of the wrong type, or a fact that is given twice.

    >>> parse_machine("kernel_release=6.8,tdp=y")
    {'kernel_release': '6.8', 'tdp': True}
    """
    from replay.events.base import specs
    from replay.header import Machine

    known = specs(Machine)
    facts: dict[str, bool | int | str | None] = {}
    for part in argument.split(","):
        name, equals, value = part.strip().partition("=")
        spec = known.get(name)
        where = f"--machine {part.strip()}"
        if spec is None or not equals:
            raise UsageError("not a fact of a machine", where=where, expected=f"NAME=VALUE with a name of {', '.join(known)}")
        if name in facts:
            raise UsageError(f"{name} is given twice", where=where)
        facts[name] = _parse_fact(value.strip(), spec, where)
    return facts


def _parse_fact(value: str, spec: "FieldSpec", where: str) -> bool | int | str | None:
    if value.lower() in _NOT_KNOWN and spec.optional:
        return None
    if spec.shape == "bool":
        if value.lower() not in YES_NO:
            raise UsageError(f"{value!r} is neither yes nor no", where=where, expected="y, n or unknown")
        return YES_NO[value.lower()]
    if spec.shape == "uint":
        number = int(value) if value.isascii() and value.isdecimal() and len(value) <= 20 else -1
        if not 0 <= number <= spec.max:
            raise UsageError(f"{value!r} is not a number that fits", where=where, expected=f"0 to {spec.max}, in decimal")
        return number
    if not 0 < len(value) <= spec.length_max:
        raise UsageError(f"a text of {len(value)} characters", where=where, expected=f"1 to {spec.length_max}")
    return value
