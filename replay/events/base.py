"""Hold what all events share: field metadata, the registry of kinds, task, time and source position.

An event class states its wire name (`KIND`), its stable number (`CODE`), what it means and where the kernel does it
(`__doc__`), and for each field a width, a unit and a sentence. Schemas, the codec and docs/events.md are generated from that,
so nothing about an event is written twice.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, ClassVar, Final, TypeVar

import attrs

from replay.units import U64_MAX

_REGISTRY: Final[dict[int, type["Event"]]] = {}
_BY_KIND: Final[dict[str, type["Event"]]] = {}
_E = TypeVar("_E", bound="Event")

FIELD_META: Final = "kvm-replay"


@attrs.frozen
class FieldSpec:
    """What the codec, the schema and the documentation need to know of one field.

    shape: "uint", "int", "bool", "str", "enum", "uints" (fixed or bounded list of uints) or "values" (list of a nested class)
    or "value" (one nested class). bits: width of a uint. choices: of an enum. of: the nested class.
    length_max: of a str (characters) or a list (items).
    """

    shape: str
    doc: str
    unit: str = ""
    bits: int = 64
    optional: bool = False
    choices: tuple[str, ...] = ()
    of: type[Any] | None = None
    length_max: int = 0

    @property
    def max(self) -> int:
        """Largest value of a uint field."""
        return U64_MAX if self.bits == 64 else (1 << self.bits) - 1


def _field(spec: FieldSpec, default: Any) -> Any:
    return attrs.field(default=default, metadata={FIELD_META: spec})


def uint(doc: str, *, bits: int = 64, unit: str = "", default: Any = attrs.NOTHING, optional: bool = False) -> Any:
    """Declare an unsigned field of `bits` bits; optional ones default to None ("not known")."""
    default = None if optional and default is attrs.NOTHING else default
    return _field(FieldSpec("uint", doc, unit, bits, optional), default)


def sint(doc: str, *, unit: str = "", default: Any = attrs.NOTHING, optional: bool = False) -> Any:
    """Declare a signed 64-bit field."""
    default = None if optional and default is attrs.NOTHING else default
    return _field(FieldSpec("int", doc, unit, 64, optional), default)


def flag(doc: str, *, default: Any = False, optional: bool = False) -> Any:
    """Declare a boolean field; False unless said, None ("not known") when optional."""
    return _field(FieldSpec("bool", doc, optional=optional), None if optional else default)


def text(doc: str, *, default: Any = attrs.NOTHING, length_max: int = 4096, optional: bool = False) -> Any:
    """Declare a text field, bounded in characters; optional ones default to None ("not known")."""
    spec = FieldSpec("str", doc, optional=optional, length_max=length_max)
    return _field(spec, None if optional and default is attrs.NOTHING else default)


def enum(doc: str, *choices: str, default: Any = attrs.NOTHING) -> Any:
    """Declare a field that is one of a few words."""
    return _field(FieldSpec("enum", doc, choices=choices), default)


def uints(doc: str, *, length_max: int, bits: int = 64, unit: str = "", default: Any = ()) -> Any:
    """Declare a short tuple of unsigned numbers."""
    return _field(FieldSpec("uints", doc, unit, bits, length_max=length_max), default)


def value(doc: str, of: type[Any], *, default: Any = None) -> Any:
    """Declare one nested value; None ("not known") unless there is a default."""
    return _field(FieldSpec("value", doc, optional=default is None, of=of), default)


def values(doc: str, of: type[Any], *, length_max: int, optional: bool = False) -> Any:
    """Declare a tuple of nested values."""
    return _field(FieldSpec("values", doc, of=of, length_max=length_max, optional=optional), None if optional else ())


def specs(cls: type[Any]) -> dict[str, FieldSpec]:
    """Return the fields of an event or value class in wire order: own fields, then the call's, then the common ones."""
    found = {a.name: a.metadata[FIELD_META] for a in attrs.fields(cls) if FIELD_META in a.metadata}
    last = (*_LAST, *(a.name for a in attrs.fields(Event))) if issubclass(cls, Event) else ()
    order = [name for name in found if name not in last] + [name for name in last if name in found]
    return {name: found[name] for name in order}


class ByFields:
    """A value that equals another one of its class with the same fields; subclasses are attrs classes.

    attrs would write these methods anew for each of some hundred classes, half of the time it takes to make one, and nearly none
    of them is asked in a run.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        fields = _GETTERS.get(self.__class__) or _getter(self.__class__)
        return bool(fields(self) == fields(other))

    def __hash__(self) -> int:
        fields = _GETTERS.get(self.__class__) or _getter(self.__class__)
        return (self.__class__, fields(self)).__hash__()

    def __repr__(self) -> str:
        cls: type[Any] = self.__class__
        told = (f"{a.name}={getattr(self, a.name)!r}" for a in attrs.fields(cls))
        return f"{cls.__qualname__}({', '.join(told)})"


_GETTERS: Final[dict[type[Any], Callable[[object], object]]] = {}


def _getter(cls: type[Any]) -> Callable[[object], object]:
    """Return what gets all fields of a value: a tuple, or the only one."""
    names = [a.name for a in attrs.fields(cls)]
    _GETTERS[cls] = attrgetter(*names) if names else lambda _value: ()
    return _GETTERS[cls]


@attrs.frozen
class Task:
    """Who did it: pid is the process (thread group), tid the thread; both as the recorder saw them."""

    pid: int = uint("process, the thread group id", bits=32)
    tid: int = uint("thread", bits=32)


@attrs.frozen
class Source:
    """Where it was read: index into the header's `sources`, and a line number from 1 (or a record number)."""

    file: int = uint("index into the header's sources", bits=12)
    line: int = uint("line number, from 1", bits=64)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Event(ByFields):
    """One fact of a recording; every concrete kind has a KIND, a CODE and its own fields."""

    KIND: ClassVar[str] = ""
    CODE: ClassVar[int] = 0
    HOT: ClassVar[bool] = False

    task: Task | None = value("thread that did it", Task)
    time_ns: int | None = sint("when it took effect, in the header's clock", unit="ns", optional=True)
    source: Source | None = value("place in the trace that it was read from", Source)
    inferred: bool = flag("not recorded itself: concluded by the importer from what was recorded")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class VmCall(Event):
    """A call on a VM, with its recorded result; never instantiated."""

    vm: int = uint("number of the VM in this recording, never reused", bits=16)
    ret: int | None = sint(
        "recorded result: 0, a new fd, or -errno; null: not known, it may or may not have taken effect", optional=True
    )
    foreign_mm: bool = flag("the caller's mm is not the VM's")
    enter_time_ns: int | None = sint("when the call was entered; it took effect by time_ns", unit="ns", optional=True)


_LAST: Final = ("ret", "foreign_mm", "enter_time_ns")


def event(code: int, kind: str, *, hot: bool = False) -> Callable[[type[_E]], type[_E]]:
    """Register an event class under its stable number and its wire name; both are unique for ever."""

    def register(cls: type[_E]) -> type[_E]:
        # The class is an attrs class already: type checkers know its fields only when the decorator is in sight.
        assert "__attrs_attrs__" in cls.__dict__, f"{cls.__name__} lacks @attrs.frozen below @event"
        cls.KIND, cls.CODE, cls.HOT = kind, code, hot
        assert code not in _REGISTRY, f"event code {code} is registered twice"
        assert kind not in _BY_KIND, f"event {kind} is registered twice"
        _REGISTRY[code] = cls
        _BY_KIND[kind] = cls
        return cls

    return register


def by_code(code: int) -> type[Event] | None:
    """Return the event class of a stable number, None when there is none."""
    return _REGISTRY.get(code)


def by_kind(kind: str) -> type[Event] | None:
    """Return the event class of a wire name, None when there is none."""
    return _BY_KIND.get(kind)


def all_kinds() -> list[type[Event]]:
    """List every event class, by number."""
    return [_REGISTRY[code] for code in sorted(_REGISTRY)]
