"""Hold values against the `FieldSpec` of their field: the one place that says what a legal value is.

Both codings use it, the arrays of the container (`codec`) and the objects of JSON Lines (`named`), before writing and after
reading. A complaint carries the path of the field ("memslot.set.slot"); callers put event number and file before it.
"""

import reprlib
from collections.abc import Callable
from typing import Any, Final

import attrs

from replay.errors import EventError
from replay.events import Event
from replay.events.base import FieldSpec, specs

SIGNED_MIN: Final = -(1 << 63)
SIGNED_MAX: Final = (1 << 63) - 1

_BRIEF: Final = reprlib.Repr()  # bounded in depth and length, whatever a file holds
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother = 3, 50, 50


@attrs.frozen
class Field:
    """One field of an event or value class, with its default; `required` when it has none."""

    name: str
    spec: FieldSpec
    default: Any
    required: bool

    def is_default(self, value: object) -> bool:
        """Say whether the value is the default, in type as well (False is not 0); a required field has none."""
        return not self.required and type(value) is type(self.default) and bool(value == self.default)


_PLANS: Final[dict[type[Any], tuple[Field, ...]]] = {}


def fields_of(cls: type[Any]) -> tuple[Field, ...]:
    """Return the fields of a class in wire order; worked out once a class."""
    known = _PLANS.get(cls)
    if known is None:
        known = _PLANS[cls] = _plan(cls)
    return known


def _plan(cls: type[Any]) -> tuple[Field, ...]:
    declared = attrs.fields_dict(cls)
    defaults = {name: declared[name].default for name in specs(cls)}
    return tuple(
        Field(name, spec, None if defaults[name] is attrs.NOTHING else defaults[name], defaults[name] is attrs.NOTHING)
        for name, spec in specs(cls).items()
    )


def title_of(cls: type[Any]) -> str:
    """Return how paths name a class: the kind of an event, the lower-case name of another."""
    return cls.KIND if issubclass(cls, Event) else cls.__name__.lower()


def shown(value: object) -> str:
    """Return a value as text for a message, cut at 60 characters."""
    text = _BRIEF.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def misfit(path: str, value: object, expected: str) -> EventError:
    """Return the complaint about one value."""
    return EventError(f"found {shown(value)}", where=path, expected=expected)


def expectation(spec: FieldSpec) -> str:
    """Say what a field may hold, for messages.

    >>> expectation(FieldSpec("uint", "", bits=32))
    'unsigned 32-bit'
    """
    words = {
        "uint": f"unsigned {spec.bits}-bit",
        "int": "signed 64-bit",
        "bool": "true or false",
        "str": f"text of at most {spec.length_max} characters",
        "enum": "one of " + ", ".join(spec.choices),
        "uints": f"a list of at most {spec.length_max} unsigned {spec.bits}-bit numbers",
        "value": "its fields",
        "values": f"a list of at most {spec.length_max}",
    }[spec.shape]
    return words + (" or null" if spec.optional else "")


def _is_uint(spec: FieldSpec, value: object) -> bool:
    return type(value) is int and 0 <= value <= spec.max


def _is_int(_spec: FieldSpec, value: object) -> bool:
    return type(value) is int and SIGNED_MIN <= value <= SIGNED_MAX


def _is_bool(_spec: FieldSpec, value: object) -> bool:
    return type(value) is bool


def _is_text(spec: FieldSpec, value: object) -> bool:
    if type(value) is not str or len(value) > spec.length_max:
        return False
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def _is_choice(spec: FieldSpec, value: object) -> bool:
    return type(value) is str and value in spec.choices


def _is_uints(spec: FieldSpec, value: object) -> bool:
    return type(value) is tuple and len(value) <= spec.length_max and all(_is_uint(spec, item) for item in value)


_CHECKS: Final[dict[str, Callable[[FieldSpec, object], bool]]] = {
    "uint": _is_uint,
    "int": _is_int,
    "bool": _is_bool,
    "str": _is_text,
    "enum": _is_choice,
    "uints": _is_uints,
}


def check_plain(field: Field, value: object, path: str) -> None:
    """Raise EventError unless the value is legal for a field that holds no nested class."""
    spec = field.spec
    if value is None and spec.optional:
        return
    if not _CHECKS[spec.shape](spec, value):
        raise misfit(f"{path}.{field.name}", value, expectation(spec))
