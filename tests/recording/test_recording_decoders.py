"""Promises of replay.recording.decoders: what is decoded in one go is what codec makes of it with care, or left to codec."""

import random
from typing import Any

import attrs
import pytest

from replay.errors import EventError
from replay.events import Event, MemslotSet, all_kinds
from replay.events.base import Source, Task
from replay.header import Counter, Header, Trailer
from replay.recording import codec, decoders
from replay.recording.codec import value_to_wire
from replay.recording.decoders import plain_value
from replay.recording.fields import fields_of
from replay.units import U64_MAX

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 255, 1 << 16, 1 << 32, U64_MAX, U64_MAX + 1, -(1 << 63), -(1 << 63) - 1),
    *("", "x", "\ud800", "everything", "x" * 5000, (), (0,), (1, 2), (True, 1), (1, -1), ((1, 2),), (0, 83), (4096, 1), 1.0, [1]),
)
CLASSES = [*(cls for cls in all_kinds() if not cls.HOT), Task, Source, Header, Trailer, Counter]


def with_care(cls: type[Any], wire: Any) -> Any:
    """Return what codec makes of an array, None for a complaint."""
    try:
        return codec._careful_value(cls, wire, "here", newer=False)
    except EventError:
        return None


def good(cls: type[Any], rng: random.Random) -> tuple[Any, ...]:
    """Return an array of a class in which much is well: a legal item for each field, cut somewhere."""
    items = []
    for field in fields_of(cls):
        legal = [item for item in ODD if field.accepts is not None and field.accepts(item)]
        if field.spec.of is not None:
            legal = [None] if field.spec.optional else [()]
            if field.spec.shape == "value" and rng.random() < 0.7:
                legal = [good(field.spec.of, rng)]
        items.append(rng.choice(legal) if legal else field.default)
    return tuple(items[: rng.choice((len(items), len(items), rng.randrange(len(items) + 1)))])


class TestPlainValues:
    """One way or the other: the same."""

    @pytest.mark.parametrize("often", [1, 1 << 30])
    @pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
    def test_as_with_care(self, cls: type[Any], often: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Legal and illegal items, in any place, too few and too many: what is decoded is right, what is wrong is left."""
        monkeypatch.setattr(decoders, "_OFTEN", often)
        monkeypatch.setattr(decoders, "_MAKERS", {})
        monkeypatch.setattr(decoders, "_SHAPES", {})
        rng, found = random.Random(cls.__name__), 0
        for _ in range(400):
            wire = good(cls, rng)
            if wire and rng.random() < 0.4:
                place = rng.randrange(len(wire))
                wire = (*wire[:place], rng.choice(ODD), *wire[place + 1 :], *rng.choice(((), (), (None,))))
            plain = plain_value(cls, wire)
            if plain is not None:
                assert plain == with_care(cls, wire)
                assert type(plain) is cls
                assert value_to_wire(cls, plain, "here") == wire
                found += 1
        assert found > (20 if cls not in {Header, Trailer} else -1)

    def test_no_array(self) -> None:
        """What is no array is left."""
        assert [plain_value(Task, wire) for wire in (None, 1, [1, 2], "ab")] == [None] * 4

    def test_usual_calls_are_decoded(self) -> None:
        """A memslot call with times, task and place is."""
        event = MemslotSet(
            vm=0, slot=3, memory_size=4096, ret=0, task=Task(1, 2), time_ns=-5, enter_time_ns=-9, source=Source(0, 7)
        )
        assert plain_value(MemslotSet, value_to_wire(MemslotSet, event, "here")) == event

    def test_few_are_remembered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """However many combinations of types come, memory stays."""
        monkeypatch.setattr(decoders, "_SHAPES", {})
        for number in range(3 * decoders._SHAPES_MOST):
            plain_value(MemslotSet, tuple("x" if number >> bit & 1 else 1 for bit in range(12)))
        assert 0 < len(decoders._SHAPES) <= decoders._SHAPES_MOST

    def test_classes_only_write_fields(self) -> None:
        """No event does more than that when it is made, so that fields can be written one by one."""
        for cls in all_kinds():
            assert issubclass(cls, Event)
            assert not any(attribute.validator or attribute.converter for attribute in attrs.fields(cls))
