"""What is seldom met in a recording, and has to be refused, or let through, all the same."""

from typing import Any

import pytest
from kvmrwriter import EVENTS, Block, Kvmr, recording, rows, segment, zlib_header

from recordings import read
from replay.errors import DamagedError, EventError
from replay.events import VmCreate
from replay.recording.event_lines import LEFT_OUT, event_of_line
from replay.recording.limits import NESTING
from replay.recording.wire import check_nesting, pack

LONG = 65536
"""So many items need an array with a length of four bytes."""


class TestNesting:
    """How deep arrays lie in one another."""

    def test_behind_a_long_array(self) -> None:
        """What follows an array of more than 65,535 items is not taken for its items."""
        nested: Any = 0
        for _ in range(NESTING.most):
            nested = [nested]
        check_nesting(pack([0] * LONG) + pack(nested))


class TestTasks:
    """The tasks of a frame."""

    @pytest.mark.parametrize(("count", "refused"), [(256, False), (257, True)])
    def test_more_than_a_byte_can_name(self, count: int, *, refused: bool) -> None:
        """Rows that name their tasks in one byte can not use a 257th, so that it must not be there."""
        tasks = [(index, index) for index in range(count)]
        head = pack([tasks, 64, 0, 0, 0, 0, 0, None, [1], [None, None], None, [None, None], 0])
        file = recording((segment(2, 256, head + bytes(range(256)), head_bytes=len(head)), 256))
        if refused:
            with pytest.raises(EventError, match="257 tasks"):
                read(file)
        else:
            assert [event.task.tid for event in read(file)[0] if event.task is not None] == list(range(256))


class TestLines:
    """Events as lines."""

    @pytest.mark.parametrize("name", sorted(LEFT_OUT - {"task"}))
    def test_what_lines_leave_out(self, name: str) -> None:
        """What an event has and a line does not say, or says behind it, is no field of a line."""
        with pytest.raises(EventError, match=f"unknown field '{name}'"):
            event_of_line(f"vm.create vm=0 {name}=1")
        assert event_of_line("vm.create vm=0").event == VmCreate(vm=0)


class TestCompressed:
    """Compressed blocks."""

    def test_that_is_none(self) -> None:
        """A block that says that it is compressed, with a right checksum over bytes that are not, is damage."""
        raw = rows([1, 0]) * 40
        with pytest.raises(DamagedError, match="a block that does not decompress"):
            read(Kvmr([zlib_header(), Block(EVENTS, b"not zlib", 40, flags=1, raw_bytes=len(raw))]).data())
