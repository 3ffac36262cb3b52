"""The limits that fields declare: of each field of each kind of event, and of all nested in it, the largest goes through.

One beyond is refused by both codings, in writing and in reading.
"""

from collections.abc import Iterator
from typing import Any, Final

import attrs
import pytest

from replay.errors import EventError
from replay.events import FieldSpec, all_kinds, specs
from replay.header import Header, Trailer
from replay.recording.codec import value_of_wire, value_to_wire
from replay.recording.named import value_of_named, value_to_named

CLASSES: Final = (*all_kinds(), Header, Trailer)
SIGNED: Final = 1 << 63
LISTS_TRIED_MAX: Final = 4096
"""Longer lists have tests of their own."""


def least(cls: type[Any]) -> Any:
    """Return a value with as little in it as it can have."""
    needed = {a.name: smallest(specs(cls)[a.name]) for a in attrs.fields(cls) if a.init and a.default is attrs.NOTHING}
    return cls(**needed)


def smallest(spec: FieldSpec) -> Any:
    """Return a legal value of a field."""
    if spec.of is not None:
        return least(spec.of) if spec.shape == "value" else ()
    return {"uint": 0, "int": 0, "bool": False, "str": "", "enum": spec.choices[:1] and spec.choices[0], "uints": ()}[spec.shape]


def edges(spec: FieldSpec) -> Iterator[tuple[Any, Any]]:
    """Yield (the largest, one beyond) of a field; nothing for one that has no size."""
    if spec.shape == "uint":
        yield spec.max, spec.max + 1
    elif spec.shape == "int":
        yield SIGNED - 1, SIGNED
        yield -SIGNED, -SIGNED - 1
    elif spec.shape == "str":
        yield "\u20ac" * spec.length_max, "\u20ac" * (spec.length_max + 1)
    elif spec.shape == "uints":
        yield (spec.max,) * spec.length_max, (spec.max,) * (spec.length_max + 1)
        yield (spec.max,), (spec.max + 1,)
    elif spec.shape == "values" and spec.length_max <= LISTS_TRIED_MAX:
        assert spec.of is not None
        yield (least(spec.of),) * spec.length_max, (least(spec.of),) * (spec.length_max + 1)


def trials(cls: type[Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, value with the largest there, value with one beyond) for each field of a class and of what is in it."""
    base = least(cls)
    for name, spec in specs(cls).items():
        if name.startswith("schema_"):
            continue
        for most, beyond in edges(spec):
            yield name, attrs.evolve(base, **{name: most}), attrs.evolve(base, **{name: beyond})
        if spec.of is not None:
            for path, most, beyond in trials(spec.of):
                inner = [(most,), (beyond,)] if spec.shape == "values" else [most, beyond]
                yield f"{name}.{path}", *(attrs.evolve(base, **{name: one}) for one in inner)


def unchecked(value: Any, *, named: bool) -> Any:
    """Return what a writer without limits would write of a value: nothing is left out."""
    if attrs.has(type(value)):
        held = {name: unchecked(getattr(value, name), named=named) for name in specs(type(value))}
        return held if named else tuple(held.values())
    if isinstance(value, tuple):
        items = [unchecked(item, named=named) for item in value]
        return items if named else tuple(items)
    return value


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: getattr(cls, "KIND", "") or cls.__name__)
class TestFields:
    """Every field is as large as it says, and no larger."""

    def test_edges(self, cls: type[Any]) -> None:
        """The largest is written and read again; one beyond is neither written nor read, by arrays or by names."""
        tried = 0
        for path, most, beyond in trials(cls):
            for to, of, named in ((value_to_wire, value_of_wire, False), (value_to_named, value_of_named, True)):
                assert of(cls, to(cls, most, "x"), "x") == most, path
                with pytest.raises(EventError):
                    to(cls, beyond, "x")
                with pytest.raises(EventError):
                    of(cls, unchecked(beyond, named=named), "x")
            tried += 1
        assert tried >= len([name for name in specs(cls) if not name.startswith("schema_")]) // 2
