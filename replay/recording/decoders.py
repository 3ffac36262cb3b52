"""Decode arrays in which all is well, by what was worked out of arrays with items of the same types before.

Events of one kind come with items of the same few combinations of types. What is to be looked at follows from that: which items
are unsigned and how large they may be, which are arrays themselves. Whatever is unusual is left to `codec`, which also says what
is wrong; a test holds one against the other.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from struct import Struct
from struct import error as struct_error
from typing import Any, Final, TypeVar

import attrs

from replay.events import Task
from replay.recording.fields import Accepts, Field, fields_of

_T = TypeVar("_T")
_Kinds = tuple[type, ...]


@attrs.define(eq=False)
class _Maker:
    """How values of one class are made of all their fields, in wire order. made: how many were, up to _OFTEN.

    twin: makes a value that can be written to, of a class with the same fields; as soon as one is worth its making.
    """

    cls: type[Any]
    setters: tuple[Callable[[Any, Any], None], ...]
    made: int = 0
    twin: Callable[..., Any] | None = None

    def slowly(self, values: Sequence[Any]) -> Any:
        """Return a value, written field by field past the class that lets nobody write."""
        self.made += 1
        if self.made == _OFTEN:
            self.twin = _twin(self.cls)
        made: Any = object.__new__(self.cls)
        for write, value in zip(self.setters, values, strict=True):
            write(made, value)
        return made


_OFTEN: Final = 256
"""A twin takes as long as some 500 values are made faster by it."""
_MAKERS: Final[dict[type[Any], _Maker]] = {}


def _twin(cls: type[Any]) -> Callable[..., Any]:
    """Return a class with the slots of a frozen one, that takes the fields in wire order and writes them straight.

    A value of it becomes one of `cls` by its `__class__`, which Python allows where the slots are the same.
    """
    writable = {"__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    fields = {field.name: attrs.field(default=field.default) for field in fields_of(cls)}
    return attrs.make_class(cls.__name__, fields, bases=(cls,), class_body=writable, slots=True, eq=False, repr=False)


@attrs.frozen
class _Shape:
    """What is to be done with arrays of one class whose items have certain types.

    numbers: takes the items that are integers; bounds: takes only what each of them may be. others: places that a test of their
    own looks at. nested: places of arrays, with their classes. last: tells whether the last item is a default, None where its
    type says that it is not. fill: defaults of the fields behind it. kept: values that were made, where they come again.
    """

    numbers: Callable[[tuple[Any, ...]], tuple[int, ...]] | None
    bounds: Callable[..., bytes]
    others: tuple[tuple[int, Accepts], ...]
    nested: tuple[tuple[int, type[Any]], ...]
    last: Accepts | None
    fill: tuple[Any, ...]
    maker: _Maker
    kept: dict[tuple[Any, ...], Any] | None


_UNKNOWN: Final[Any] = object()
_SHAPES: Final[dict[_Kinds, _Shape | None]] = {}
"""By class and types of the items."""
_SHAPES_MOST: Final = 1024
_KEPT_MOST: Final = 1024
_WIDTHS: Final = {8: "B", 16: "H", 32: "I", 64: "Q"}
"""Letters of `struct` for unsigned numbers of so many bits: it takes none that is larger, and none below 0."""


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
    if shape is None:
        return None
    if shape.kept is not None:
        found: _T | None = shape.kept.get(wire)  # items of other types have another shape: true is not taken for 1
        if found is not None:
            return found
    if shape.last is not None and shape.last(wire[-1]):
        return None
    if shape.numbers is not None:
        try:
            shape.bounds(*shape.numbers(wire))
        except (struct_error, OverflowError):
            return None
    for place, accepts in shape.others:
        if not accepts(wire[place]):
            return None
    return _made(cls, shape, wire)


def _made(cls: type[_T], shape: _Shape, wire: tuple[Any, ...]) -> _T | None:
    values: Sequence[Any] = wire
    if shape.nested:
        values = list(wire)
        for place, of in shape.nested:
            found = plain_value(of, values[place])
            if found is None:
                return None
            values[place] = found
    maker = shape.maker
    made: _T
    if maker.twin is None:
        made = maker.slowly((*values, *shape.fill))
    else:
        made = maker.twin(*values)
        made.__class__ = cls
    if shape.kept is not None:
        if len(shape.kept) >= _KEPT_MOST:
            shape.kept.clear()
        shape.kept[wire] = made
    return made


def _shape_of(cls: type[Any], kinds: _Kinds) -> _Shape | None:
    """Return what to do with arrays of a class whose items have certain types; None when they are left to `codec`."""
    fields = fields_of(cls)
    if len(kinds) > len(fields) or any(field.required for field in fields[len(kinds) :]):
        return None
    held = list(zip(fields, kinds, strict=False))
    if not all(_fits(field, kind) for field, kind in held) or _has_factory(cls):
        return None
    integers = [(place, _letter(field)) for place, (field, kind) in enumerate(held) if kind is int]
    bounded = [place for place, letter in integers if letter]
    return _Shape(
        numbers=_getter(bounded),
        bounds=Struct("<" + "".join(letter for _place, letter in integers)).pack,
        others=tuple(
            (place, field.accepts)
            for place, (field, kind) in enumerate(held)
            if field.accepts and (kind in {str, tuple} or (kind is int and place not in bounded))
        ),
        nested=tuple((place, field.spec.of) for place, (field, kind) in enumerate(held) if kind is tuple and field.spec.of),
        last=held[-1][0].is_default if held and kinds[-1] is type(held[-1][0].default) else None,
        fill=tuple(field.default for field in fields[len(kinds) :]),
        maker=_maker_of(cls),
        kept={} if cls is Task else None,
    )


def _letter(field: Field) -> str:
    """Return the letter of `struct` for what a field of integers may hold, "" where there is none."""
    return _WIDTHS.get(field.spec.bits, "") if field.spec.shape == "uint" else "q"


def _maker_of(cls: type[Any]) -> _Maker:
    """Return what makes values of a class."""
    if cls not in _MAKERS:
        _MAKERS[cls] = _Maker(cls, tuple(getattr(cls, field.name).__set__ for field in fields_of(cls)))
    return _MAKERS[cls]


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
