"""Turn events, the header and the trailer into objects with named fields, and back: the form of JSON Lines and of upcasting.

Fields that hold their default are left out, keys stand in the order of `replay.events.specs`. What a person may have
mistyped, a kind or a field name, is answered with the nearest one that exists.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

from replay.errors import EventError
from replay.events import Event, all_kinds, by_kind
from replay.recording.codec import unknown_event
from replay.recording.fields import Field, expectation, fields_of, misfit, refused, title_of
from replay.units import counted

_T = TypeVar("_T")

EVENT_KEY: Final = "event"

Named = dict[str, Any]


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the advice for a mistyped name, "" when nothing is near.

    >>> nearest("memslot.sett", ["memslot.set", "mark"])
    "did you mean 'memslot.set'?"
    """
    found = difflib.get_close_matches(name[:100], list(names), n=1)
    return f"did you mean {found[0]!r}?" if found else ""


def _field_to_named(field: Field, value: Any, path: str) -> Any:
    if field.accepts is not None:
        if not field.accepts(value):
            raise refused(field, value, path)
        return list(value) if field.spec.shape == "uints" else value
    here = f"{path}.{field.name}"
    assert field.spec.of is not None, "a field without a test holds nested values"
    if field.spec.shape == "value":
        return value_to_named(field.spec.of, value, here)
    if type(value) is not tuple or len(value) > field.spec.length_max:
        raise misfit(here, value, expectation(field.spec))
    return [value_to_named(field.spec.of, item, f"{here}[{index}]") for index, item in enumerate(value)]


def value_to_named(cls: type[Any], value: Any, path: str) -> Named:
    """Return the object of a header, trailer or nested value; raise EventError with the path of the first misfit."""
    if type(value) is not cls:
        raise misfit(path, value, f"a {cls.__name__}")
    held = ((field, getattr(value, field.name)) for field in fields_of(cls))
    return {field.name: _field_to_named(field, item, path) for field, item in held if not field.is_default(item)}


def event_to_named(event: Event) -> Named:
    """Return the object of an event.

    >>> from replay.events import VmDestroy
    >>> event_to_named(VmDestroy(vm=0, reason="exit"))
    {'event': 'vm.destroy', 'vm': 0, 'reason': 'exit'}
    """
    cls = type(event)
    return {EVENT_KEY: cls.KIND, **value_to_named(cls, event, title_of(cls))}


def _field_of_named(field: Field, value: Any, path: str, newer: bool) -> Any:
    spec, here = field.spec, f"{path}.{field.name}"
    if spec.shape == "uints" and type(value) is list:
        value = tuple(value)
    if field.accepts is not None:
        if not field.accepts(value):
            raise refused(field, value, path)
        return value
    if value is None and spec.optional:
        return None
    assert spec.of is not None, "a field without a test holds nested values"
    if spec.shape == "value":
        return value_of_named(spec.of, value, here, newer=newer)
    if type(value) is not list:
        raise misfit(here, value, expectation(spec))
    if len(value) > spec.length_max:
        raise EventError(f"found {counted(len(value), 'item')}", where=here, expected=expectation(spec))
    return tuple(value_of_named(spec.of, item, f"{here}[{index}]", newer=newer) for index, item in enumerate(value))


def value_of_named(cls: type[_T], named: Any, path: str, *, newer: bool = False) -> _T:
    """Return the header, trailer, event or nested value of an object.

    newer: the file is of a newer minor version, so that fields of other names are passed over.
    Raises EventError with the path of the first misfit: type, range, missing or unknown.
    """
    if not isinstance(named, dict):
        raise misfit(path, named, f"an object with the fields of a {cls.__name__}")
    fields = {field.name: field for field in fields_of(cls)}
    held = {}
    for name, item in named.items():
        if name in fields:
            held[name] = _field_of_named(fields[name], item, path, newer)
        elif not newer:
            raise EventError(
                f"unknown field {name[:100]!r}", where=path, expected="one of " + ", ".join(fields), advice=nearest(name, fields)
            )
    for field in fields.values():
        if field.required and field.name not in held:
            raise EventError("missing", where=f"{path}.{field.name}", expected=expectation(field.spec))
    return cls(**held)


def event_of_named(named: Mapping[str, Any], *, newer: str = "") -> Event:
    """Return the event of an object; newer as in `codec.event_of_wire`.

    >>> event_of_named({"event": "vm.attach", "vm": 3}).vm
    3
    """
    kind = named.get(EVENT_KEY)
    if type(kind) is not str:
        raise EventError(
            f"no {EVENT_KEY!r} key with the kind of the event", expected='an object such as {"event": "vm.create", "vm": 0}'
        )
    cls = by_kind(kind)
    if cls is None:
        error = unknown_event(f"event {kind[:100]!r}", newer)
        advice = error.advice or nearest(kind, (known.KIND for known in all_kinds()))
        raise type(error)(error.found, expected=error.expected, advice=advice)
    fields = {name: value for name, value in named.items() if name != EVENT_KEY}
    return value_of_named(cls, fields, title_of(cls))
