"""Turn events, the header and the trailer into arrays of plain values, and back.

An event is `[code, field, field, ...]` with its fields in the order of `replay.events.specs`; a nested value is the array of
its own fields. Trailing fields that hold their default are left out, all of them: an array that ends in a default is not
canonical and is refused, as are floats, maps and extension types. Booleans are true and false, words of an enumeration are
texts, "not known" is nil.
"""

from typing import Any, TypeVar

from replay.errors import EventError, VersionError
from replay.events import Event, by_code
from replay.recording.decoders import plain_value
from replay.recording.fields import Field, expectation, fields_of, misfit, refused, title_of
from replay.units import counted

_T = TypeVar("_T")

Wire = tuple[Any, ...]


def _nested_to_wire(field: Field, value: Any, path: str) -> Any:
    if value is None and field.spec.optional:
        return None
    here, cls = f"{path}.{field.name}", field.spec.of
    assert cls is not None, "only fields of nested values come here"
    if field.spec.shape == "value":
        return value_to_wire(cls, value, here)
    if type(value) is not tuple or len(value) > field.spec.length_max:
        raise misfit(here, value, expectation(field.spec))
    return tuple(value_to_wire(cls, item, f"{here}[{index}]") for index, item in enumerate(value))


def value_to_wire(cls: type[Any], value: Any, path: str) -> Wire:
    """Return the array of a header, trailer or nested value; raise EventError with the path of the first misfit."""
    if type(value) is not cls:
        raise misfit(path, value, f"a {cls.__name__}")
    fields = fields_of(cls)
    held = [getattr(value, field.name) for field in fields]
    count = len(fields)
    while count and fields[count - 1].is_default(held[count - 1]):
        count -= 1
    for index, field in enumerate(fields[:count]):
        if field.accepts is None:
            held[index] = _nested_to_wire(field, held[index], path)
        elif not field.accepts(held[index]):
            raise refused(field, held[index], path)
    return tuple(held[:count])


def event_to_wire(event: Event) -> Wire:
    """Return the array of an event, its code first.

    >>> from replay.events import VmDestroy
    >>> event_to_wire(VmDestroy(vm=0))
    (3, 0)
    """
    cls = type(event)
    return (cls.CODE, *value_to_wire(cls, event, title_of(cls)))


def _nested_of_wire(field: Field, value: Any, path: str, newer: bool) -> Any:
    if value is None and field.spec.optional:
        return None
    here, cls = f"{path}.{field.name}", field.spec.of
    assert cls is not None, "only fields of nested values come here"
    if type(value) is not tuple:
        raise misfit(here, value, expectation(field.spec))
    if field.spec.shape == "value":
        return value_of_wire(cls, value, here, newer=newer)
    if len(value) > field.spec.length_max:
        raise EventError(f"found {counted(len(value), 'item')}", where=here, expected=expectation(field.spec))
    return tuple(value_of_wire(cls, item, f"{here}[{index}]", newer=newer) for index, item in enumerate(value))


def value_of_wire(cls: type[_T], wire: Any, path: str, *, newer: bool = False) -> _T:
    """Return the header, trailer or nested value of an array.

    newer: the file is of a newer minor version, so that fields after the last one known are passed over.
    Raises EventError with the path of the first misfit: type, range, missing, too many, or not canonical.
    """
    found = plain_value(cls, wire)
    return _careful_value(cls, wire, path, newer=newer) if found is None else found


def _careful_value(cls: type[_T], wire: Any, path: str, *, newer: bool) -> _T:
    """Return the value of any array, or say what is wrong with it: the specification of `plain_value()`."""
    fields = fields_of(cls)
    if type(wire) is not tuple:
        raise misfit(path, wire, f"the fields of a {cls.__name__}")
    if len(wire) > len(fields):
        if not newer:
            raise EventError(f"found {counted(len(wire), 'field')}", where=path, expected=f"at most {len(fields)}")
        wire = wire[: len(fields)]
    elif wire and _is_default(fields[len(wire) - 1], wire[-1]):
        raise EventError(f"found {fields[len(wire) - 1].name} with its default at the end", where=path, expected="it left out")
    held = {}
    for field, item in zip(fields, wire, strict=False):
        if field.accepts is None:
            held[field.name] = _nested_of_wire(field, item, path, newer)
        elif field.accepts(item):
            held[field.name] = item
        else:
            raise refused(field, item, path)
    for field in fields[len(wire) :]:
        if field.required:
            raise EventError("missing", where=f"{path}.{field.name}", expected=expectation(field.spec))
    return cls(**held)


def _is_default(field: Field, wire: Any) -> bool:
    if field.spec.shape == "value" and field.default is not None:
        return type(wire) is tuple and wire == value_to_wire(type(field.default), field.default, field.name)
    return field.is_default(wire)


def event_of_wire(wire: Any, *, newer: str = "") -> Event:
    """Return the event of an array.

    newer: what the file says of its newer minor version, if it is one: then an unknown code is a VersionError.
    """
    if type(wire) is not tuple or not wire or type(wire[0]) is not int:
        raise misfit("event", wire, "an array that starts with an event code")
    cls = by_code(wire[0])
    if cls is None:
        raise unknown_event(f"event code {wire[0]}", newer)
    found = plain_value(cls, wire[1:])
    return _careful_value(cls, wire[1:], title_of(cls), newer=False) if found is None else found


def unknown_event(what: str, newer: str) -> EventError | VersionError:
    """Return the complaint about an event that is not in the vocabulary.

    None is ever skipped: a replay that lacks an event gives wrong answers without saying so.
    """
    if newer:
        return VersionError(
            what, expected="one that this release knows", advice=f"the recording is of {newer}: update kvm-replay"
        )
    return EventError(f"unknown {what}", expected="one of docs/events.md")
