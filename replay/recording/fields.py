"""Hold values against the `FieldSpec` of their field: the one place that says what a legal value is.

Both codings use it, the arrays of the container (`codec`) and the objects of JSON Lines (`named`), before writing and after
reading. A complaint carries the path of the field ("memslot.set.slot"); callers put event number and file before it.
"""

import reprlib
from codecs import getincrementaldecoder
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


Accepts = Callable[[object], bool]


@attrs.frozen
class Field:
    """One field of an event or value class, with its default; `required` when it has none.

    accepts: says whether a value is legal; None for a field that holds nested values.
    """

    name: str
    spec: FieldSpec
    default: Any
    required: bool
    accepts: Accepts | None

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
    defaults = {attribute.name: attribute.default for attribute in attrs.fields(cls)}
    return tuple(
        Field(
            name,
            spec,
            None if defaults[name] is attrs.NOTHING else defaults[name],
            required=defaults[name] is attrs.NOTHING,
            accepts=_accepts(spec),
        )
        for name, spec in specs(cls).items()
    )


def title_of(cls: type[Any]) -> str:
    """Return how paths name a class: the kind of an event, the lower-case name of another."""
    return cls.KIND if issubclass(cls, Event) else cls.__name__.lower()


def shown(value: object) -> str:
    """Return a value as text for a message, cut at 60 characters."""
    text = _BRIEF.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def shown_bytes(data: bytes) -> str:
    """Return the start of some bytes for a message: as text where they are, else in hexadecimal.

    >>> shown_bytes(b"hello"), shown_bytes(bytes(range(0xFD, 0x100)))
    ("'hello'", 'fd fe ff')
    """
    try:
        text = getincrementaldecoder("utf-8")().decode(data[:40])
    except UnicodeDecodeError:
        return data[:16].hex(" ")
    return shown(text) if text.isprintable() else data[:16].hex(" ")


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


# One test a shape, made once a field: these run for every value that is read or written.


def _uint(spec: FieldSpec) -> Accepts:
    most = spec.max
    if spec.optional:
        return lambda value: value is None or (type(value) is int and 0 <= value <= most)
    return lambda value: type(value) is int and 0 <= value <= most


def _int(spec: FieldSpec) -> Accepts:
    return lambda value: (value is None and spec.optional) or (type(value) is int and SIGNED_MIN <= value <= SIGNED_MAX)


def _bool(spec: FieldSpec) -> Accepts:
    return lambda value: value is True or value is False or (value is None and spec.optional)


def _is_text(text: str) -> bool:
    """Say whether a text can be written as UTF-8: surrogates can not."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _text(spec: FieldSpec) -> Accepts:
    most = spec.length_max
    return lambda value: len(value) <= most and _is_text(value) if type(value) is str else value is None and spec.optional


def _enum(spec: FieldSpec) -> Accepts:
    return lambda value: type(value) is str and value in spec.choices


def _uints(spec: FieldSpec) -> Accepts:
    item, most = _uint(spec), spec.length_max
    return lambda value: type(value) is tuple and len(value) <= most and all(map(item, value))


_SHAPES: Final[dict[str, Callable[[FieldSpec], Accepts]]] = {
    "uint": _uint,
    "int": _int,
    "bool": _bool,
    "str": _text,
    "enum": _enum,
    "uints": _uints,
}


def _accepts(spec: FieldSpec) -> Accepts | None:
    return None if spec.of is not None else _SHAPES[spec.shape](spec)


def refused(field: Field, value: object, path: str) -> EventError:
    """Return the complaint about a value that its field does not accept."""
    return misfit(f"{path}.{field.name}", value, expectation(field.spec))
