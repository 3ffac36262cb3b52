"""Golden files as recordings: an event is a line and a line is an event; times keep their order; errors name the line."""

import io
from pathlib import Path

import attrs
import pytest
from hypothesis import given

from recordings import EVENTS, HEADERS, STRUCTURAL, TRAILERS
from replay.analyses.compare import compare
from replay.engine.lanes import make_lanes
from replay.errors import EmptyError, KvmReplayError
from replay.events import Event, Mark, MemslotSet, NotifierRegister, Task, VcpuCreate, VmCreate, VmDestroy, VmEnableCap
from replay.events.base import VmCall
from replay.header import Header, Machine, Trailer
from replay.recording import open_recording
from replay.recording.event_lines import event_of_line, line_of_event
from replay.recording.golden_lines import FIRST_LINE, Canon, head_lines, tail_lines
from replay.recording.golden_reader import GoldenReader
from replay.runs import events_of, items_of
from replay.sources import open_stream
from replay.units import Gpa

ROOT = Path(__file__).resolve().parent.parent.parent
BOOT = f"""{FIRST_LINE}
title: a case by hand
# what happens
machine: kernel_release=6.8 tdp

events: two of them
  vm.create vm=0  # 5 the only one

  vm.destroy vm=0  # the end
counter: kind="odd lines" count=3 severity=ignored
compare: --lanes eager,on-demand
  verdict: anything
"""


def bare(event: Event) -> Event:
    """Return an event without what a line does not say."""
    kept = attrs.evolve(event, source=None, time_ns=None, task=None)
    return attrs.evolve(kept, enter_time_ns=None) if isinstance(kept, VmCall) else kept


def text_of(events: list[Event], header: Header = Header(), trailer: Trailer = Trailer()) -> str:  # noqa: B008 - frozen
    """Return events as the text of a golden file."""
    canon = Canon()
    lines = [*head_lines(header), "events:", *(f"  {canon.line(event, number)}" for number, event in enumerate(events))]
    return "\n".join([*lines, *tail_lines(trailer)]) + "\n"


def read(text: str) -> tuple[list[Event], GoldenReader]:
    """Return the events of a golden file's text."""
    reader = open_recording(io.BytesIO(text.encode()))
    assert isinstance(reader, GoldenReader)
    return list(events_of(reader.items())), reader


def complaint(text: str) -> str:
    """Return code and sentence of the error that reading raises."""
    with pytest.raises(KvmReplayError) as caught:
        read(text)
    return f"{caught.value.code} {caught.value}"


class TestLines:
    """An event is one line, and the line is the event."""

    @pytest.mark.parametrize(
        ("event", "line"),
        [
            (VmCreate(vm=0, ret=5), "vm.create vm=0  # 5"),
            (VcpuCreate(vm=1, vcpu_id=2, ret=-12), "vcpu.create vm=1 vcpu_id=2  # -ENOMEM"),
            (VcpuCreate(vm=0, vcpu_id=0, ret=-524, inferred=True), "vcpu.create vm=0 vcpu_id=0 inferred  # -524"),
            (NotifierRegister(vm=0, table=False), "notifier.register vm=0 table=n  # ?"),
            (Mark(text='a # "b"\n'), r'mark text="a # \"b\"\n"'),
            (Mark(text="plain/word-1"), "mark text=plain/word-1"),
            (VmEnableCap(vm=0, cap=1, args=(1, 1 << 20)), "vm.enable_cap vm=0 cap=1 args=1,0x100000  # ?"),
            (VmEnableCap(vm=0, cap=1, args=(65535, 65536)), "vm.enable_cap vm=0 cap=1 args=65535,0x10000  # ?"),
            (VmDestroy(vm=0, reason="exit"), "vm.destroy vm=0 reason=exit"),
            (
                MemslotSet(vm=0, slot=65541, guest_phys_addr=Gpa(4096), ret=0),
                "memslot.set vm=0 slot=0x10005 guest_phys_addr=0x1000  # 0",
            ),
        ],
    )
    def test_line(self, event: Event, line: str) -> None:
        """Kind, fields that hold no default, and the result: hex for addresses, errno by name, JSON for what needs it."""
        assert line_of_event(event) == line
        assert event_of_line(line).event == event

    @given(STRUCTURAL)
    def test_every_event(self, event: Event) -> None:
        """Any event that can be recorded is read back as it was, without its place, task and time."""
        line = line_of_event(event)
        assert line.isascii()
        assert "\n" not in line
        assert event_of_line(line).event == bare(event)

    def test_remark(self) -> None:
        """What a person adds behind the result is kept apart from it."""
        found = event_of_line("vm.create vm=0 # -ENOMEM the cgroup is full # really")
        assert (found.event, found.remark) == (VmCreate(vm=0, ret=-12), "the cgroup is full # really")
        assert event_of_line("vm.destroy vm=0 # bye").remark == "bye"

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("vm.creat vm=0", "did you mean 'vm.create'"),
            ("vm.create", "vm.create.vm: missing"),
            ("vm.create vm", "vm.create.vm: found 'nothing'"),
            ("vm.create vm=65536", "unsigned 16-bit"),
            ("vm.create vm=01", "unsigned 16-bit"),
            ("vm.create vm=0 vm=1", "twice"),
            ("vm.create vm=0 ty=1", "unknown field 'ty'"),
            ("vm.create vm=0 =", "name=value"),
            ("vm.create vm=0  # fine", "name of an errno"),
            ("vm.create vm=0  # 9999999999999999999", "signed 64-bit"),
            ("vm.destroy vm=0 reason=boredom", "one of close"),
            ("observe state=[", "no JSON"),
            ('observe state={"vm_bugged": 1.5}', "observe.state: number '1.5'"),
            ('observe state={"a": 1}', "unknown field 'a'"),
            ("observe state=1", "its fields"),
            ("vm.enable_cap vm=0 cap=1 args=1,,2", "a list of at most 4"),
        ],
    )
    def test_misfit(self, line: str, words: str) -> None:
        """What does not fit is said with the field, and what would fit."""
        with pytest.raises(KvmReplayError) as caught:
            event_of_line(line)
        assert words.lower() in str(caught.value).lower()
        assert caught.value.code == "KVR105"


class TestCanon:
    """Of tasks and times what matters is kept: who is who, and which calls overlap."""

    def test_tasks_are_numbered_as_they_come(self) -> None:
        """Processes and threads get small numbers in order of appearance, equal ones the same."""
        tasks = [Task(900, 901), Task(900, 900), Task(7, 7), Task(900, 901)]
        events: list[Event] = [VmCreate(vm=index, ret=3, task=task) for index, task in enumerate(tasks)]
        found, _reader = read(text_of(events))
        assert [event.task for event in found] == [Task(1, 1), Task(1, 2), Task(2, 3), Task(1, 1)]

    def test_overlaps_are_kept(self) -> None:
        """Two calls overlap after reading exactly if they did before, whatever their times were."""
        spans = [(0, 10), (10, 20), (15, 30), (5, 40), (50, 60), (60, 61)]
        events: list[Event] = [VmCreate(vm=i, ret=3, enter_time_ns=a, time_ns=b) for i, (a, b) in enumerate(spans)]
        text = text_of(events)
        assert [line.count("entered=") for line in text.splitlines()[2:]] == [0, 0, 1, 1, 0, 0]
        found, _reader = read(text)
        times = [(event.enter_time_ns, event.time_ns) for event in found if isinstance(event, VmCreate)]
        assert overlaps(times) == overlaps(spans) == {(0, 3), (1, 2), (1, 3), (2, 3)}

    @pytest.mark.parametrize("path", sorted((ROOT / "recordings").glob("*/*.jsonl")), ids=lambda path: path.stem)
    def test_same_findings(self, path: Path) -> None:
        """A recording's golden text gives the findings that the recording gives, and its own text again."""
        with open_recording(str(path)) as stream:
            text = text_of(list(events_of(stream.items())), stream.header)
            machine = stream.header.machine
        events, reader = read(text)
        assert reader.header.machine == machine
        assert text_of(events, reader.header) == text
        reports = []
        for source in (str(path), io.BytesIO(text.encode())):
            with open_recording(source) as stream:
                reports.append(compare(stream, make_lanes(["eager", "on-demand"], machine)))
        found = [
            [(f.event, f.divergence, f.catalogue, f.converged_event, [s.did for s in f.sides]) for f in report.pairs[0].findings]
            for report in reports
        ]
        assert found[0] == found[1]
        assert reports[0].agreements == reports[1].agreements


def overlaps(spans: list[tuple[int | None, int | None]] | list[tuple[int, int]]) -> set[tuple[int, int]]:
    """Return which pairs of spans overlap; touching ends do not count."""
    return {
        (i, j)
        for j, (enter_j, exit_j) in enumerate(spans)
        for i, (enter_i, exit_i) in enumerate(spans[:j])
        if exit_i > enter_j and exit_j > enter_i  # type: ignore[operator]  # all of them are known here
    }


class TestReading:
    """A golden file is an input like any other."""

    def test_by_hand(self, tmp_path: Path) -> None:
        """Comments, empty lines and what is said of answers are passed over; every verb's opener takes it."""
        events, reader = read(BOOT)
        assert [type(event) for event in events] == [VmCreate, VmDestroy]
        assert reader.header == Header(title="a case by hand", machine=Machine(kernel_release="6.8", tdp=True))
        assert reader.trailer().counters[0].kind == "odd lines"
        path = tmp_path / "case.golden"
        path.write_text(BOOT)
        assert list(events_of(open_stream([str(path)]).items())) == events

    @pytest.mark.parametrize(
        ("title", "line"),
        [
            ("a boot, of 2 VMs", "title: a boot, of 2 VMs"),
            ('"quoted" boot', r'title: "\"quoted\" boot"'),
            (" a blank before", 'title: " a blank before"'),
            ("two\nlines", r'title: "two\nlines"'),
        ],
    )
    def test_title(self, title: str, line: str) -> None:
        """A title stands as it is, and in JSON only where it would be read as something else."""
        assert list(head_lines(Header(title=title)))[1] == line
        assert read(f"{FIRST_LINE}\n{line}\nevents:\n")[1].header.title == title

    @given(EVENTS, HEADERS, TRAILERS)
    def test_round_trip(self, events: list[Event], header: Header, trailer: Trailer) -> None:
        """Any events, facts of the machine and losses are read back; a second text is the first."""
        text = text_of(events, header, trailer)
        found, reader = read(text)
        assert [bare(event) for event in found] == [bare(event) for event in events_of(items_of(events))]
        assert reader.trailer() == attrs.evolve(trailer, events=len(events))
        assert (reader.header.machine, reader.header.title) == (header.machine, header.title)
        assert reader.header.complete_start == header.complete_start
        assert text_of(found, reader.header, reader.trailer()) == text

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("kvm-replay golden/2\nevents:\n", "KVR108 stream:1: version '2'"),
            (f"{FIRST_LINE}\ntitle: x\n", "KVR108 stream: no events"),
            (f"{FIRST_LINE}\nrecording: a.kvmr\nevents: 9, not listed\n", "give a.kvmr itself"),
            (f"{FIRST_LINE}\nevnts:\n", "KVR108 stream:2: a line 'evnts:'"),
            (f"{FIRST_LINE}\ncompare: --lanes eager\n", "KVR108 stream:2"),
            (f"{FIRST_LINE}\npast: bright\nevents:\n", "expected unknown"),
            (f"{FIRST_LINE}\nmachine: tdp=maybe\nevents:\n", "KVR105 stream:2, machine.tdp: found 'maybe'"),
            (f"{FIRST_LINE}\nmachine: tpd=y\nevents:\n", "did you mean 'tdp'"),
            (f"{FIRST_LINE}\nmachine: tdp=y tdp=n\nevents:\n", "twice"),
            (f"{FIRST_LINE}\ncounter: count=1\nevents:\n", "counter.kind: missing"),
            (f"{FIRST_LINE}\nevents:\n  vm.create vm=0\n  vm.create\n", "KVR105 stream:4, vm.create.vm: missing"),
            (f"{FIRST_LINE}\nevents:\nvm.create vm=0\n", "events and answers stand behind two spaces"),
            (f"{FIRST_LINE}\nevents:\n  vm.create vm=0 entered=1\n", "entered"),
            (f"{FIRST_LINE}\nevents:\n  vm.destroy vm=0 entered=0\n", "a call on a VM only"),
            (f"{FIRST_LINE}\nevents:\n  vm.create vm=0 task=1\n", "PROCESS/THREAD"),
            (f"{FIRST_LINE}\nevents:\n  mark text=a\ntitle: x\n", "what comes after the events"),
            (f"{FIRST_LINE}\ntitle: {'x' * 257}\nevents:\n", "KVR106 stream, header.title"),
            (f"{FIRST_LINE}\n" + "counter: count=1 kind=k\n" * 4097 + "events:\n", "KVR105 stream, trailer.counters"),
        ],
    )
    def test_misfit(self, text: str, words: str) -> None:
        """An error has its code and the line."""
        assert words.lower() in complaint(text.replace("stream", "x")).lower().replace("<_io.bytesio", "stream")

    def test_nothing(self) -> None:
        """An empty file is none; bytes that are no text are said with their line."""
        with pytest.raises(EmptyError):
            open_recording(io.BytesIO(b""))
        with pytest.raises(KvmReplayError, match="byte 0xff at column 3"):
            open_recording(io.BytesIO(FIRST_LINE.encode() + b"\n# \xff\nevents:\n"))
