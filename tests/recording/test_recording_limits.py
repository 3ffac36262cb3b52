"""Limits of size hold on both sides; trouble of the system while reading is said as such."""

import io
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kvmrwriter import Block

from recordings import (
    jsonl,
    kvmr,
    read,
    read_jsonl,
    small_events,
)
from replay.errors import DamagedError, EventError, LimitError, UnreadableError
from replay.events import Mark, Observe, ObservedCount, ObservedSlot, ObservedVm
from replay.header import Counter, Header, SourceFile, Trailer
from replay.recording import JsonlReader, KvmrReader
from replay.recording.blocks import EVENTS as EVENTS_BLOCK
from replay.recording.blocks import parse_block_header
from replay.recording.codec import event_of_wire, event_to_wire
from replay.recording.limits import RECORD_BYTES, RECORDING_EVENTS
from replay.recording.named import event_of_named, event_to_named
from replay.recording.wire import pack
from replay.runs import events_of


class TestLimits:
    """Limits hold on both sides: the largest thing is written and read, the next is not written."""

    @staticmethod
    def observation(slots: int, label: str = "") -> Observe:
        """Return an event of 20 bytes a slot."""
        slot = ObservedSlot(as_id=0, id=1, base_gfn=1 << 40, npages=1, flags=0)
        return Observe(vm=0, state=ObservedVm(slots=(slot,) * slots), label=label)

    def test_record(self) -> None:
        """An event may have as many bytes as fit a block, and one more is refused."""
        many = self.observation(65536)
        size = len(pack(event_to_wire(many)))
        assert size < RECORD_BYTES.most
        assert read(kvmr([many]))[0] == [many]
        slot = ObservedSlot(as_id=1, id=1, base_gfn=1 << 40, npages=1 << 40, flags=1 << 20, rmap=(1,))
        large = Observe(vm=0, state=ObservedVm(slots=(slot,) * ((RECORD_BYTES.most - 100) // 29)), label="x" * 100)
        room = RECORD_BYTES.most - len(pack(event_to_wire(large)))
        assert -100 < room < 100
        exact, over = (attrs.evolve(large, label="x" * (100 + room + more)) for more in (0, 1))
        assert len(pack(event_to_wire(exact))) == RECORD_BYTES.most
        assert read(kvmr([Mark(text="a"), exact]))[0] == read_jsonl(jsonl([Mark(text="a"), exact]))[0] == [Mark(text="a"), exact]
        with pytest.raises(LimitError, match=r"event 1, observe: .* for one structural event"):
            kvmr([Mark(text="a"), over])

    def test_ends(self) -> None:
        """A header or trailer that does not fit a block is a LimitError."""
        files = tuple(SourceFile(name="\u20ac" * 255, format="") for _ in range(4096))
        with pytest.raises(LimitError, match="header"):
            kvmr([], Header(sources=files))
        counters = tuple(Counter(kind="\u20ac" * 128, count=1) for _ in range(4096))
        with pytest.raises(LimitError, match="trailer"):
            kvmr([], Header(), Trailer(counters=counters))
        fits = Header(sources=tuple(SourceFile(name=f"{i}.strace", format="strace") for i in range(4096)))
        assert read(kvmr([], fits))[1].header == fits

    def test_recording(self) -> None:
        """Event number 2^48-1 is the last that a block may hold."""
        most = RECORDING_EVENTS.most
        for first, legal in ((most - 1, True), (most, False)):
            data, _ = Block(EVENTS_BLOCK, b"", 1).data(7, first)
            if legal:
                assert parse_block_header(data, 7, first).first_event == most - 1
            else:
                with pytest.raises(DamagedError, match=f"event number {most}"):
                    parse_block_header(data, 7, first)

    def test_lists(self) -> None:
        """A list of 65536 items is written and read as JSON, one more is not."""
        counts = (ObservedCount(0, 1),) * 65536
        slot = ObservedSlot(as_id=0, id=1, base_gfn=0, npages=1, flags=0, counts=counts)
        most, over = (
            Observe(vm=0, state=ObservedVm(slots=(s,))) for s in (slot, attrs.evolve(slot, counts=(*counts, counts[0])))
        )
        assert event_of_named(event_to_named(most)) == event_of_wire(event_to_wire(most)) == most
        for coding in (event_to_wire, event_to_named):
            with pytest.raises(EventError, match=r"observe.state.slots\[0\].counts: found"):
                coding(over)
        named = event_to_named(most)
        named["state"]["slots"][0]["counts"].append({"gfn": 0, "count": 1})
        with pytest.raises(EventError, match=r"observe.state.slots\[0\].counts: found 65,537 items"):
            event_of_named(named)


class TestReading:
    """Trouble of the system while reading is an UnreadableError."""

    @pytest.mark.parametrize("cls", [KvmrReader, JsonlReader])
    def test_open(self, cls: type[KvmrReader | JsonlReader], tmp_path: Path) -> None:
        """A missing file, a directory and an impossible name."""
        for name in (tmp_path / "missing", tmp_path, "nul\0"):
            with pytest.raises(UnreadableError) as caught:
                cls(name)
            assert str(name) in caught.value.where

    @pytest.mark.parametrize(("cls", "data"), [(KvmrReader, kvmr(small_events())), (JsonlReader, jsonl(small_events()))])
    def test_in_between(self, cls: type[KvmrReader | JsonlReader], data: bytes) -> None:
        """A disk that fails half way."""

        class Failing(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if self.tell() > 500:
                    raise OSError(5, "Input/output error")
                return super().read(size)

            def readline(self, size: int | None = -1, /) -> bytes:
                if self.tell() > 500:
                    raise OSError(5, "Input/output error")
                return super().readline(size)

        reader = cls(Failing(data))
        with pytest.raises(UnreadableError, match="input/output error"):
            list(reader.items())

    @given(st.data())
    @settings(max_examples=20)
    def test_small_reads(self, data: st.DataObject) -> None:
        """A pipe that gives few bytes at a time is read as a file is."""

        class Pipe(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                return super().read(min(size or 0, data.draw(st.integers(1, 300))))

        reader = KvmrReader(Pipe(kvmr(small_events())))
        assert list(events_of(reader.items())) == small_events()
        assert not reader.torn
