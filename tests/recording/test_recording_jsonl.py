"""JSON Lines: comfortable for people, exact for machines, and clear about what is wrong where."""

import io
import json
from typing import Any

import pytest

from recordings import HEADER, TRAILER, add, jsonl, read_jsonl, small_events
from replay.errors import EventError, HeaderError, KvmReplayError, LimitError, RecordingError, UnknownFormatError, VersionError
from replay.events import Mark, MemslotSet, Task, VmCreate
from replay.header import Machine, Trailer
from replay.recording import JsonlReader
from replay.recording.limits import LINE_BYTES, LINE_CONTAINERS
from replay.runs import Run

FIRST = b'{"kvm-replay": "recording/1"}\n'
BY_HAND = b'{"kvm-replay": "recording/1", "hand_written": true}\n'


def complaint(data: bytes) -> KvmReplayError:
    """Return the error that reading raises."""
    with pytest.raises(KvmReplayError) as caught:
        read_jsonl(data)
    return caught.value


class TestWriting:
    """One object a line, fields in order, defaults left out."""

    def test_lines(self) -> None:
        """The first, an event's and the last line look like this."""
        lines = jsonl(
            [VmCreate(vm=0, ret=4, task=Task(7, 8)), MemslotSet(vm=0, memory_size=1 << 40), add(vm=0, gfn=3)]
        ).splitlines()
        assert json.loads(lines[0])["kvm-replay"] == "recording/1"
        assert lines[1:4] == [
            b'{"event": "vm.create", "vm": 0, "ret": 4, "task": {"pid": 7, "tid": 8}}',
            b'{"event": "memslot.set", "vm": 0, "memory_size": 1099511627776}',
            b'{"event": "write_track.add", "vm": 0, "gfn": 3}',
        ]
        assert (
            lines[4] == b'{"end": {"events": 3, "counters": [{"kind": "ioctl 0xae9a", "count": 3, "first": "boot.strace:12"}]}}'
        )
        assert len(lines) == 5

    def test_one_line_each(self) -> None:
        """Text with line ends, controls and other alphabets stays on one ASCII line."""
        text = "a\nb\r\u2028\u0085\0\u00fc\U0001f600"
        data = jsonl([Mark(text=text)])
        assert data.isascii()
        assert data.count(b"\n") == len(data.splitlines()) == 3
        assert read_jsonl(data)[0] == [Mark(text=text)]


class TestByHand:
    """A file that people write needs little."""

    def test_comfort(self) -> None:
        """Comments, blank lines, spaces, any order of keys, defaults spelled out, no end line, no last line end."""
        text = b"""# a VM with one slot

        {"kvm-replay": "recording/1", "hand_written": true, "machine": {"tdp": false}}
\t# the VM
{ "vm": 0, "event": "vm.create", "ret": null }
\r
{"event":"write_track.add","gfn":3,"vm":0}\r
{"event": "mark", "text": "# not a comment \xc3\xbc"}"""
        events, reader = read_jsonl(text)
        assert events == [VmCreate(vm=0), add(vm=0, gfn=3), Mark(text="# not a comment \u00fc")]
        assert (reader.torn, reader.hand_written, reader.warnings()) == (False, True, [])
        assert reader.trailer() == Trailer(events=3)
        assert reader.header.machine == Machine(tdp=False)

    def test_end_is_allowed(self) -> None:
        """An end line may be there, and then must count right."""
        assert read_jsonl(BY_HAND + b'{"event": "vm.attach", "vm": 1}\n{"end": {"events": 1}}\n# done\n')[1].trailer() == Trailer(
            events=1
        )
        assert "0 events; expected 1, as many as there are" in str(
            complaint(BY_HAND + b'{"event": "vm.attach", "vm": 1}\n{"end": {}}')
        )

    def test_marked(self) -> None:
        """The writer marks a file on request."""
        events, reader = read_jsonl(jsonl(small_events(), hand_written=True))
        assert events == small_events()
        assert reader.hand_written

    def test_half_line(self) -> None:
        """A last line that is not whole is a mistake in a file by hand, not a tear."""
        assert str(complaint(BY_HAND + b'{"event": "mark", "te')).startswith("stream:2: no JSON")


class TestTorn:
    """A machine's file that stops early is torn."""

    def test_every_cut(self) -> None:
        """Each cut is seen, and what is read is a true prefix; only the last line end may be missing."""
        data, events = jsonl(small_events()), small_events()
        first = data.index(b"\n")
        for size in range(len(data)):
            if size < first:
                assert isinstance(complaint(data[:size]), HeaderError | UnknownFormatError)
                continue
            seen, reader = read_jsonl(data[:size])
            assert reader.torn is (size < len(data) - 1)
            assert seen == events[: len(seen)]
            assert len(seen) == max(data[: size + 1].count(b"\n") - 1, 0) or not reader.torn or data[size - 1 : size] == b"}"
        assert reader.trailer().total("lost") == 0

    def test_counted(self) -> None:
        """It warns, and counts the loss."""
        _, reader = read_jsonl(FIRST + b'{"event": "vm.attach", "vm": 1}\n')
        assert reader.warnings() == ['stream: torn recording: stops at line 2, before its "end" line; 1 event is there']
        assert [(c.kind, c.severity, c.first) for c in reader.trailer().counters] == [("torn recording", "lost", "stream:2")]


class TestMistakes:
    """What is wrong is said with file, line, what was found, what was expected, and the nearest right spelling."""

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (
                '{"event": "memslot.sett", "vm": 0}',
                "stream:2: unknown event 'memslot.sett'; expected one of docs/events.md. Did you mean 'memslot.set'?",
            ),
            (
                '{"event": "memslot.set", "vm": 0, "slott": 1}',
                "stream:2, memslot.set: unknown field 'slott'; expected one of vm, slot, ",
            ),
            ('{"event": "memslot.set"}', "stream:2, memslot.set.vm: missing; expected unsigned 16-bit"),
            ('{"event": "memslot.set", "vm": "0x1"}', "stream:2, memslot.set.vm: found '0x1'; expected unsigned 16-bit"),
            ('{"event": "mark", "text": "a", "text": "b"}', "stream:2: key 'text' twice in one object"),
            ('{"event": "mark", "text": "a", "task": {"pid": 1, "pid": 1, "tid": 1}}', "stream:2: key 'pid' twice in one object"),
            ('{"event": "vm.attach", "vm": 1.0}', "stream:2: number '1.0'; expected an integer"),
            ('{"event": "vm.attach", "vm": 1e3}', "stream:2: number '1e3'; expected an integer"),
            ('{"event": "vm.attach", "vm": NaN}', "stream:2: number 'NaN'; expected an integer"),
            ('{"event": "vm.attach", "vm": -Infinity}', "stream:2: number '-Infinity'; expected an integer"),
            ('{"event": "vm.attach", "vm": -1}', "stream:2, vm.attach.vm: found -1"),
            ('{"event": "vm.attach", "vm": true}', "stream:2, vm.attach.vm: found True"),
            ('{"event": "vm.attach", "vm": 1, "inferred": 1}', "stream:2, vm.attach.inferred: found 1; expected true or false"),
            ('{"event": "vm.attach", "vm": ' + "9" * 5000 + "}", "stream:2: no JSON that can be read (ValueError)"),
            ('{"event": "mark", "text": "\\ud800"}', "stream:2, mark.text: found '\\ud800'"),
            (
                '{"event": "mark", "text": "a", "task": [1, 2]}',
                "stream:2, mark.task: found [1, 2]; expected an object with the fields of a Task",
            ),
            (
                '{"event": "vm.enable_cap", "vm": 0, "cap": 1, "args": {}}',
                "stream:2, vm.enable_cap.args: found {}; expected a list",
            ),
            ('{"event": "observe", "areas": {}}', "stream:2, observe.areas: found {}; expected a list of at most 256 or null"),
            ('{"event": "observe", "areas": [1]}', "stream:2, observe.areas[0]: found 1"),
            ('{"event": 7}', "stream:2: no 'event' key"),
            ('{"evnt": "mark"}', "stream:2: no 'event' key"),
            ("{}", "stream:2: no 'event' key"),
            ("[]", "stream:2: []; expected an object"),
            ("null", "stream:2: None; expected an object"),
            ("5", "stream:2: 5; expected an object"),
            ('{"event": "mark", "text": "a"} {}', "stream:2: no JSON: Extra data at column 32"),
            ("{'event': 'mark'}", "stream:2: no JSON: "),
            ("[" * 3000 + "]" * 3000, "stream:2: no JSON that can be read (RecursionError)"),
            ('{"end": {"events": 0}, "more": 1}', "stream:2: keys ['end', 'more']; expected 'end' alone on its line"),
            ('{"end": {"events": 1}}', "stream:2, end.events: 1 event; expected 0"),
            (
                '{"end": {"event": 1}}',
                "stream:2, end: unknown field 'event'; expected one of events, counters. Did you mean 'events'?",
            ),
            ('{"end": 5}', "stream:2, end: found 5"),
            ('{"end": {}}\n{"event": "mark", "text": "a"}', "stream:3: a line after the end line"),
            ('{"kvm-replay": "recording/1"}', "stream:2: no 'event' key"),
        ],
    )
    def test_event_lines(self, line: str, message: str) -> None:
        """Each mistake on the second line."""
        error = complaint(FIRST + line.encode() + b"\n")
        assert isinstance(error, RecordingError)
        assert str(error).startswith(message)

    def test_field_advice(self) -> None:
        """A mistyped field is answered with the nearest."""
        assert complaint(FIRST + b'{"event": "memslot.set", "vm": 0, "memory_siz": 1}\n').advice == "did you mean 'memory_size'?"

    def test_not_utf8(self) -> None:
        """Bytes that are no UTF-8 are said by column."""
        assert str(complaint(FIRST + b'{"event": "mark", "text": "\xff"}\n')).startswith(
            "stream:2: byte 0xff at column 28; expected UTF-8"
        )

    def test_line_numbers(self) -> None:
        """Comments and blank lines count as lines."""
        assert complaint(b"# one\n\n" + BY_HAND + b"# four\n{}\n").where == "stream:5"

    @pytest.mark.parametrize(
        ("data", "error", "message"),
        [
            (b"", UnknownFormatError, "no first line"),
            (b"# only\n", UnknownFormatError, "no first line"),
            (b"ioctl(4, KVM_RUN, 0) = 0\n", UnknownFormatError, 'expected {"kvm-replay": "recording/1"}'),
            (b"{}\n", UnknownFormatError, "no 'kvm-replay'; expected"),
            (b'{"kvm-replay": null}\n', UnknownFormatError, "no 'kvm-replay'; expected"),
            (b'{"kvm-replay": 1}\n', UnknownFormatError, "kvm-replay: 1"),
            (b'{"kvm-replay": "report/1"}\n', UnknownFormatError, "kvm-replay: 'report/1'"),
            (b'{"kvm-replay": "recording/x"}\n', HeaderError, "version 'recording/x'"),
            (b'{"kvm-replay": "recording/\xc2\xb2"}\n', HeaderError, "version"),
            (b'{"kvm-replay": "recording/1", "schema_minor": -1}\n', HeaderError, "schema_minor -1"),
            (b'{"kvm-replay": "recording/1", "schema_minor": "1"}\n', HeaderError, "schema_minor '1'"),
            (b'{"kvm-replay": "recording/1", "schema_major": 1}\n', HeaderError, "schema_major"),
            (b'{"kvm-replay": "recording/2"}\n', VersionError, "schema 2.0; expected at most 1.x. Update kvm-replay"),
            (b'{"kvm-replay": "recording/0"}\n', VersionError, "schema 0.0"),
            (b'{"kvm-replay": "recording/1", "hand_written": 1}\n', HeaderError, "hand_written: 1; expected true or false"),
            (
                b'{"kvm-replay": "recording/1", "titel": "x"}\n',
                HeaderError,
                "unknown field 'titel'; expected one of .* Did you mean 'title'",
            ),
            (
                b'{"kvm-replay": "recording/1", "machine": {"tdp": 1}}\n',
                HeaderError,
                "header.machine.tdp: found 1; expected true or false or null",
            ),
            (b'{"kvm-replay": "recording/1", "title": "a", "title": "a"}\n', HeaderError, "twice"),
            (b'{"kvm-replay"\n', HeaderError, "no JSON"),
            (b"{" * 600000, LimitError, "600000 objects and lists"),
        ],
    )
    def test_first_line(self, data: bytes, error: type[KvmReplayError], message: str) -> None:
        """Each mistake in the first line, with the right error."""
        with pytest.raises(error, match=message):
            read_jsonl(data)

    def test_newer_minor(self) -> None:
        """A newer minor version: unknown fields of header and end are passed over with a warning, unknown events are not."""
        first = b'{"kvm-replay": "recording/1", "schema_minor": 4, "mood": "good", "machine": {"gpu": 1}}\n'
        events, reader = read_jsonl(first + b'{"event": "vm.attach", "vm": 1}\n{"end": {"events": 1, "joy": 2}}\n')
        assert len(events) == 1
        assert (reader.schema_version, reader.header.schema_minor) == ((1, 4), 0)
        assert reader.warnings() == ["stream: written in schema 1.4, which is newer: what is new in it was passed over"]
        with pytest.raises(VersionError, match=r"stream:2: event 'vm.teleport'.* recording is of schema 1.4: update"):
            read_jsonl(first + b'{"event": "vm.teleport", "vm": 1}\n')
        with pytest.raises(EventError, match="unknown field 'warp'"):
            read_jsonl(first + b'{"event": "vm.attach", "vm": 1, "warp": 1}\n')


class TestLimits:
    """Long lines and many objects are refused before they are parsed."""

    def test_line(self) -> None:
        """A line of 16 MiB is read, one byte more is not."""
        base = b'{"event": "mark", "text": "a"}'
        longest = base + b" " * (LINE_BYTES.most - len(base) - 1) + b"\n"
        assert len(read_jsonl(BY_HAND + longest)[0]) == 1
        with pytest.raises(LimitError, match=f"stream:2: {LINE_BYTES.most + 1} bytes for one JSON line"):
            read_jsonl(BY_HAND + b" " + longest)

    def test_containers(self) -> None:
        """So many brackets on a line are parsed, one more is not."""
        fits = b'{"event": "mark", "text": "' + b"[" * 4000 + b'"}\n'
        assert len(read_jsonl(BY_HAND + fits)[0]) == 1
        with pytest.raises(LimitError, match="objects and lists"):
            read_jsonl(BY_HAND + b"[" * (LINE_CONTAINERS.most + 1))
        with pytest.raises(EventError, match="RecursionError"):
            read_jsonl(BY_HAND + b"[" * LINE_CONTAINERS.most)


class TestStream:
    """The reader is a stream like any other."""

    def test_runs(self) -> None:
        """Hot events come as runs."""
        reader = JsonlReader(io.BytesIO(jsonl(small_events())))
        kinds: list[Any] = [type(item) for item in reader.items()]
        assert kinds.count(Run) == 2
        assert reader.header == HEADER
        assert reader.trailer().counters == TRAILER.counters

    def test_closes(self) -> None:
        """An open stream is left open, and can be used as a context."""
        source = io.BytesIO(jsonl([]))
        with JsonlReader(source) as reader:
            assert list(reader.items()) == []
        assert not source.closed
