"""Promises at the edges of the container: what can not be written, read or reached is an error there, or said as unknown."""

import io
import os
from pathlib import Path

import msgpack
import pytest

from recordings import jsonl, kvmr, small_events
from replay.errors import EventError, GoldenError, LimitError, UnknownFormatError, UnreadableError
from replay.events import Observe, VmCreate, VmDestroy
from replay.recording import KvmrReader
from replay.recording.columns import Shape, encode_column
from replay.recording.decode import check_narrow, decode_column, has_nulls
from replay.recording.event_lines import event_of_line, line_of_event
from replay.recording.files import Input
from replay.recording.golden_lines import FIRST_LINE, Head
from replay.recording.golden_reader import GoldenReader
from replay.recording.limits import LINE_BYTES
from replay.recording.named import event_of_named, event_to_named
from replay.recording.verify import verify
from replay.recording.wire import check_nesting
from replay.soundness import Loss


class TestUnknown:
    """Facts that nobody knows."""

    def test_in_a_line(self) -> None:
        """A question mark is a value that is not known, of fields that may be unknown; of others it is no number."""
        assert event_of_line("observe vm=0 state=?").event == Observe(vm=0)
        with pytest.raises(EventError, match=r"vm.create.vm"):
            event_of_line("vm.create vm=?")

    def test_in_json(self) -> None:
        """In JSON Lines null says the same."""
        named = event_to_named(Observe(vm=0))
        assert event_of_named({**named, "state": None, "areas": None}) == Observe(vm=0)


class TestRefused:
    """What does not fit is refused where it stands."""

    def test_line_of_an_event_out_of_range(self) -> None:
        """An event with a value that its field can not hold is not written."""
        with pytest.raises(EventError, match=r"vm.create.*vm.*65536.*unsigned 16-bit"):
            line_of_event(VmCreate(vm=65536))

    @pytest.mark.parametrize("named", ["1", '{"a": 1}', '"text"'])
    def test_list_of_values(self, named: str) -> None:
        """A list of nested values is nothing else."""
        with pytest.raises(EventError, match=r"observe.areas.*a list of at most"):
            event_of_line(f"observe vm=0 areas={named}")

    @pytest.mark.parametrize("length", [0, 31, 32, 255, 256, 65535, 65536])
    def test_what_follows_a_text(self, length: int) -> None:
        """A map is found behind a text of any length, and what is no map is not taken for one."""
        text = "\x80" * (length // 2) + "x" * (length % 2)
        check_nesting(msgpack.packb([text, [text], 5]))
        with pytest.raises(EventError, match="0x80"):
            check_nesting(msgpack.packb([text, {}]))

    def test_a_column_knows_its_nulls(self) -> None:
        """A column says whether any row is null, in each of the forms."""
        for values, nulls in (([None, 1], True), ([None, (1 << 64) - 1], True), ([2, (1 << 64) - 1], False), ([1, 2], False)):
            description, data = encode_column(Shape("any", nullable=True), values)
            column, _end = decode_column(Shape("any", nullable=True), description, memoryview(data), 0, 2, 0)
            assert (list(column), len(column), has_nulls(column)) == (values, 2, nulls)

    @pytest.mark.parametrize("most", [-(1 << 63), (1 << 63) - 1])
    def test_signed_numbers(self, most: int) -> None:
        """A signed number has 64 bits, and no more."""
        named = event_to_named(VmCreate(vm=0, ret=most))
        assert event_of_named(named) == VmCreate(vm=0, ret=most)
        with pytest.raises(EventError, match=r"vm.create.ret.*signed 64-bit"):
            event_of_named({**named, "ret": most + (1 if most > 0 else -1)})

    @pytest.mark.parametrize("width", [1, 2, 4, 8])
    def test_constant_spelled_out(self, width: int) -> None:
        """A column that is one number in all rows is refused in every width: it has a shorter form."""
        number = (1 << 8 * width) - 3
        check_narrow(memoryview(number.to_bytes(width, "little") * 9 + bytes(width)), width, "here")
        with pytest.raises(EventError, match="a constant column that is spelled out"):
            check_narrow(memoryview(number.to_bytes(width, "little") * 9), width, "here")

    @pytest.mark.parametrize("title", ['"open', '"a" b', '"'])
    def test_title(self, title: str) -> None:
        """A title that begins as JSON is JSON."""
        head = Head()
        with pytest.raises(GoldenError, match="a text, or one in JSON"):
            head.take("title", title)
        head.take("title", '"a\\nb"')
        assert head.header.title == "a\nb"

    def test_first_line(self) -> None:
        """A golden file begins with its first line, not after an empty one or a comment."""
        for text in ("", "events:\n", f"\n{FIRST_LINE}\nevents:\n"):
            with pytest.raises(UnknownFormatError, match="a first line of another kind"):
                GoldenReader(io.BytesIO(text.encode()))

    @pytest.mark.parametrize("more", [0, 1])
    def test_long_line(self, more: int) -> None:
        """A line of a golden file may be as long as the limit says, its end included, and no byte longer."""
        line = b"# ".ljust(LINE_BYTES.most - 1 + more, b"x") + b"\n"
        text = f"{FIRST_LINE}\n".encode() + line + b"events:\n  vm.destroy vm=0\n"
        if more:
            with pytest.raises(LimitError, match=r":2\b.*line"):
                GoldenReader(io.BytesIO(text))
        else:
            assert list(GoldenReader(io.BytesIO(text)).items()) == [VmDestroy(vm=0)]


class TestUnreachable:
    """Inputs that can not be gone back in."""

    def test_pipe(self) -> None:
        """Seeking in a pipe is an error that names it, not a traceback."""
        reading, writing = os.pipe()
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe, pytest.raises(UnreadableError, match="readable bytes"):
            Input(pipe).seek(3)

    def test_name(self, tmp_path: Path) -> None:
        """A stream has its own name and is no file that could be opened again; a path is one."""
        path = tmp_path / "a.kvmr"
        path.write_bytes(kvmr(small_events()))
        with KvmrReader(path) as by_name, path.open("rb") as file, KvmrReader(file) as by_stream:
            assert (by_name.is_file, by_stream.is_file) == (True, False)
            assert by_name.name == by_stream.name == str(path)

    def test_gone_while_verified(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A damaged file that can not be opened a second time is reported as damaged; what it lost stays unknown."""
        path = tmp_path / "a.jsonl"
        path.write_bytes(jsonl(small_events())[:-30])
        known = verify(path)
        real = Path.open

        def opened_once(self: Path, mode: str = "r") -> object:
            opens.append(str(self))
            if len(opens) > 1:
                raise PermissionError(13, "Permission denied")
            return real(self, mode)

        opens: list[str] = []
        monkeypatch.setattr(Path, "open", opened_once)
        found = verify(path)
        assert (found.code, found.state) == (known.code, known.state)
        assert found.loss == Loss() != known.loss
