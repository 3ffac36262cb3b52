"""Decode arrays in which all is well, by what was worked out of arrays with items of the same types before.

Events of one kind come with items of the same few combinations of types. What is to be looked at follows from that: which items
are unsigned and how large they may be, which are arrays themselves. Whatever is unusual is left to `codec`, which also says what
is wrong; a test holds one against the other.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter, le
from typing import Any, Final, TypeVar

import attrs

from replay.recording.fields import SIGNED_MAX, SIGNED_MIN, Accepts, Field, fields_of

_T = TypeVar("_T")
_Kinds = tuple[type, ...]


@attrs.frozen
class _Shape:
    """What is to be done with arrays of one class whose items have certain types.

    numbers: takes the items that are integers; least, most: what each of them may be. others: places that a test of their own
    looks at. nested: places of arrays, with their classes. last: tells whether the last item is a default, None where its type
    says that it is not. fill: defaults of the fields behind it. setters: write each field.
    """

    numbers: Callable[[tuple[Any, ...]], tuple[int, ...]] | None
    least: tuple[int, ...]
    most: tuple[int, ...]
    others: tuple[tuple[int, Accepts], ...]
    nested: tuple[tuple[int, type[Any]], ...]
    last: Accepts | None
    fill: tuple[Any, ...]
    setters: tuple[Callable[[Any, Any], None], ...]


_UNKNOWN: Final = _Shape(None, (), (), (), (), None, (), ())
_SHAPES: Final[dict[_Kinds, _Shape | None]] = {}
"""By class and types of the items."""
_SHAPES_MOST: Final = 1024


def plain_value(cls: type[_T], wire: Any) -> _T | None:
    """Return the value of an array in which all is well; None for what is to be looked at with care."""
    if type(wire) is not tuple:
        return None
    key = (cls, *map(type, wire))
    shape = _SHAPES.get(key, _UNKNOWN)
    if shape is _UNKNOWN:
        if len(_SHAPES) >= _SHAPES_MOST:
            _SHAPES.clear()
        shape = _SHAPES[key] = _shape_of(cls, key[1:])
    if shape is None or (shape.last is not None and shape.last(wire[-1])):
        return None
    if shape.numbers is not None:
        numbers = shape.numbers(wire)
        if not (all(map(le, numbers, shape.most)) and all(map(le, shape.least, numbers))):
            return None
    for place, accepts in shape.others:
        if not accepts(wire[place]):
            return None
    return _made(cls, shape, wire)


def _made(cls: type[_T], shape: _Shape, wire: tuple[Any, ...]) -> _T | None:
    values: list[Any] = [*wire, *shape.fill]
    for place, of in shape.nested:
        found = plain_value(of, values[place])
        if found is None:
            return None
        values[place] = found
    made = cls.__new__(cls)
    for write, value in zip(shape.setters, values, strict=True):
        write(made, value)
    return made


def _shape_of(cls: type[Any], kinds: _Kinds) -> _Shape | None:
    """Return what to do with arrays of a class whose items have certain types; None when they are left to `codec`."""
    fields = fields_of(cls)
    if len(kinds) > len(fields) or any(field.required for field in fields[len(kinds) :]):
        return None
    held = list(zip(fields, kinds, strict=False))
    if not all(_fits(field, kind) for field, kind in held) or _has_factory(cls):
        return None
    integers = [(place, field) for place, (field, kind) in enumerate(held) if kind is int]
    return _Shape(
        numbers=_getter([place for place, _field in integers]),
        least=tuple(0 if field.spec.shape == "uint" else SIGNED_MIN for _place, field in integers),
        most=tuple(field.spec.max if field.spec.shape == "uint" else SIGNED_MAX for _place, field in integers),
        others=tuple(
            (place, field.accepts) for place, (field, kind) in enumerate(held) if kind in {str, tuple} and field.accepts
        ),
        nested=tuple((place, field.spec.of) for place, (field, kind) in enumerate(held) if kind is tuple and field.spec.of),
        last=held[-1][0].is_default if held and kinds[-1] is type(held[-1][0].default) else None,
        fill=tuple(field.default for field in fields[len(kinds) :]),
        setters=tuple(getattr(cls, field.name).__set__ for field in fields),
    )


def _getter(places: Sequence[int]) -> Callable[[tuple[Any, ...]], tuple[int, ...]] | None:
    if len(places) == 1:
        place = places[0]
        return lambda wire: (wire[place],)
    return itemgetter(*places) if places else None


def _fits(field: Field, kind: type) -> bool:
    """Tell whether an item of a type can be right, and is one that is decoded here."""
    spec = field.spec
    if kind is type(None):
        return spec.optional
    if spec.shape in {"uint", "int"}:
        return kind is int
    if spec.shape == "value":
        return kind is tuple and field.default is None  # a default that is an array is `codec`'s to compare
    wanted = {"bool": bool, "str": str, "enum": str, "uints": tuple}.get(spec.shape)
    return kind is wanted


def _has_factory(cls: type[Any]) -> bool:
    """Tell whether making a value does more than write its fields."""
    names = {field.name for field in fields_of(cls)}
    plain = all(a.validator is None and a.converter is None and a.init for a in attrs.fields(cls))
    return not plain or {a.name for a in attrs.fields(cls)} != names or hasattr(cls, "__attrs_post_init__")
