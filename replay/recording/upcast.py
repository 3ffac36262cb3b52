"""Read recordings of older schema versions: a table from version to what is to be done with each record.

A record of an older version is first given names (by the layouts of that version, for the kinds whose fields were others
then), then changed by the function of each version up to the present one, then read as any other. So an upcast is written
once for .kvmr and JSON Lines. Recordings of the present version never come here. Runs are kept as they are: a change of
their columns is a new container version.

Rules. The minor version rises for what an old reader may pass over: new fields at the end of header, trailer and the
values in them, and new block kinds from 0x80. An old reader reads such files, and says that it passed something over.
New event kinds also raise it, and an old reader refuses a recording only when it meets one. Any other change of an event
raises the major version and adds a row to the table here; tests/recording/test_wire_layout.py holds the layout fast.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from replay.errors import VersionError
from replay.events import Event, FieldSpec, by_code, by_kind, specs
from replay.header import Header
from replay.recording.codec import Wire, event_of_wire, value_of_wire
from replay.recording.fields import fields_of, misfit
from replay.recording.named import EVENT_KEY, Named, event_of_named, value_of_named, value_to_named

Version = tuple[int, int]
CURRENT: Final[Version] = (Header().schema_major, Header().schema_minor)


def unchanged(record: Named) -> Named:
    """Return the record as it is."""
    return record


@attrs.frozen
class Upcast:
    """What turns records of one version into those of a later one.

    to: that version. layouts: code -> (kind, fields in order) for the events of that version that are not as today's.
    A field that holds its default is not in a record: where today's default is another, event() puts the old one in.
    event: changes one named event. header: changes the named header, its version aside; header_fields: the header's fields
    of that version after the version itself, when they were others.
    """

    to: Version
    layouts: Mapping[int, tuple[str, tuple[str, ...]]] = attrs.field(factory=dict)
    event: Callable[[Named], Named] = unchanged
    header: Callable[[Named], Named] = unchanged
    header_fields: tuple[str, ...] = ()


Upcasts = Mapping[Version, Upcast]

UPCASTS: Final[Upcasts] = {}
"""Version 1.0 is the first; nothing is older."""


def version_text(version: Version) -> str:
    """Return a version as people write it."""
    return f"schema {version[0]}.{version[1]}"


@attrs.frozen
class Dialect:
    """How the events of one version are read: straight, or by way of their names."""

    version: Version
    _steps: tuple[Upcast, ...]

    @property
    def newer(self) -> str:
        """Name of the version when it is a newer minor one, otherwise ""."""
        return version_text(self.version) if self.version > CURRENT else ""

    def event_of_wire(self, wire: Any) -> Event:
        """Return the event of an array of this version."""
        if not self._steps:
            return event_of_wire(wire, newer=self.newer)
        return self.event_of_named(self._named_event(wire))

    def reader(self) -> Callable[[Any], Event]:
        """Return what does `event_of_wire`, without asking anew for each event how."""
        return self.event_of_wire if self._steps or self.newer else event_of_wire

    def event_of_named(self, named: Named) -> Event:
        """Return the event of an object of this version."""
        for step in self._steps:
            named = step.event(named)
        return event_of_named(named, newer=self.newer)

    def header_of_wire(self, wire: Wire) -> Header:
        """Return the header of an array of this version, without the version in front."""
        if not self._steps:
            return value_of_wire(Header, (*CURRENT, *wire) if wire else (), "header", newer=bool(self.newer))
        names = next((step.header_fields for step in self._steps if step.header_fields), tuple(specs(Header))[2:])
        return self.header_of_named(_named(Header, names, wire, "header"))

    def header_of_named(self, named: Named) -> Header:
        """Return the header of an object of this version, without its version."""
        for step in self._steps:
            named = step.header(named)
        return value_of_named(Header, named, "header", newer=bool(self.newer))

    def _named_event(self, wire: Any) -> Named:
        if type(wire) is not tuple or not wire or type(wire[0]) is not int:
            raise misfit("event", wire, "an array that starts with an event code")
        kind, names = self._layout(wire[0])
        return {EVENT_KEY: kind, **_named(by_kind(kind) or Event, names, wire[1:], kind)}

    def _layout(self, code: int) -> tuple[str, tuple[str, ...]]:
        for step in self._steps:
            if code in step.layouts:
                return step.layouts[code]
        cls = by_code(code)
        if cls is None:
            raise misfit("event", code, "an event code")
        return cls.KIND, tuple(specs(cls))


def _named(cls: type[Any], names: tuple[str, ...], wire: Wire, path: str) -> Named:
    """Return an array as an object with the given names; values of classes that are still there get theirs as well."""
    if len(wire) > len(names):
        raise misfit(path, wire, f"at most {len(names)} fields")
    known = {field.name: field.spec for field in fields_of(cls)}
    return {name: _named_item(known.get(name), item, f"{path}.{name}") for name, item in zip(names, wire, strict=False)}


def _named_item(spec: FieldSpec | None, item: Any, path: str) -> Any:
    if spec is None or spec.of is None or type(item) is not tuple:
        return _listed(item)
    if spec.shape == "value":
        return value_to_named(spec.of, value_of_wire(spec.of, item, path), path)
    return [value_to_named(spec.of, value_of_wire(spec.of, one, path), path) for one in item]


def _listed(value: Any) -> Any:
    """Return nested arrays as lists: what their items mean is known to the upcast alone."""
    return [_listed(item) for item in value] if type(value) is tuple else value


def dialect_of(version: Version, where: str, upcasts: Upcasts = UPCASTS) -> Dialect:
    """Return how to read a version; raise VersionError for a newer major one, or an older one without a way up."""
    if version[0] > CURRENT[0]:
        raise VersionError(version_text(version), where=where, expected=f"at most {CURRENT[0]}.x", advice="update kvm-replay")
    steps: list[Upcast] = []
    at = version
    while at < CURRENT:
        step = upcasts.get(at)
        if step is None:
            raise VersionError(version_text(version), where=where, expected=f"one that can be read as {version_text(CURRENT)}")
        assert step.to > at, "an upcast goes up"
        steps.append(step)
        at = step.to
    return Dialect(version, tuple(steps))
