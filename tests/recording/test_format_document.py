"""docs/format.md says what the code does: its example is a recording, its limits are the limits."""

import re
from pathlib import Path

from recordings import add, jsonl, kvmr, read, read_jsonl
from replay.events import Event, VmCreate
from replay.header import Header, Trailer
from replay.recording.blocks import CONTAINER_MAJOR, CONTAINER_MINOR, LAYOUT, MAGIC, SIGNATURE
from replay.recording.frames import SHAPES
from replay.recording.limits import TABLE
from replay.recording.segments import LAYOUT as SEGMENT

TEXT = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
EVENTS: list[Event] = [VmCreate(vm=0, ret=4), add(0, 16), add(0, 4096)]


def fenced(language: str) -> str:
    """Return the one code block of a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return str(found)


class TestDocument:
    """The page is held against the code."""

    def test_bytes(self) -> None:
        """The bytes shown are those of a recording with the events described."""
        columns = [line[:48] for line in fenced("hexdump").splitlines()]
        data = bytes.fromhex(" ".join(columns))
        assert data == kvmr(EVENTS, Header(title="example"), Trailer())
        assert read(data)[0] == EVENTS

    def test_lines(self) -> None:
        """So are the lines."""
        lines = fenced("json").encode()
        assert lines == jsonl(EVENTS, Header(title="example"), Trailer())
        assert read_jsonl(lines)[0] == EVENTS

    def test_limits(self) -> None:
        """The table of limits is the table of limits."""
        rows = re.findall(r"^\| (.*) \| (\d+)((?: [a-z ]+)?) \|$", TEXT.split("## Limits")[1], re.MULTILINE)
        assert [(of, int(most), unit.strip()) for of, most, unit in rows] == [
            (limit.of, limit.most, limit.unit) for limit in TABLE
        ]

    def test_numbers(self) -> None:
        """Sizes, signature and version are the code's."""
        assert f"### Magic: {len(MAGIC)} bytes" in TEXT
        assert f"### Block header: {LAYOUT.size} bytes" in TEXT
        assert f"a header of {SEGMENT.size} bytes" in TEXT
        assert f"`{SIGNATURE.hex(' ')}`" in TEXT
        assert (CONTAINER_MAJOR, CONTAINER_MINOR) == (1, 0)

    def test_columns(self) -> None:
        """The columns are named in their order."""
        order = [TEXT.index(f"`{shape.name}`") for shape in SHAPES]
        assert order == sorted(order)
