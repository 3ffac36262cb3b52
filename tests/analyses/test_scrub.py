"""Promises of scrubbing: no secret is left anywhere, and every analysis answers the same."""

import io
import random
from pathlib import Path
from typing import Any

import attrs
import pytest

from replay.analyses.check import check
from replay.analyses.compare import compare
from replay.analyses.compare_report import CompareReport
from replay.analyses.scrub import Labels, Scrub
from replay.analyses.scrub_addresses import GIB_SHIFT, GPA_ENDS, HVA_ENDS, AddressMap
from replay.engine.lanes import make_lanes
from replay.events import Event, MemslotSet, Observe, ObservedVm, VmCreate
from replay.events.base import FieldSpec, Task, all_kinds, specs
from replay.events.evidence import ObservedArea, ObservedCount, ObservedSlot
from replay.header import Counter, Header, Machine, SourceFile, Tool, Trailer
from replay.kvm.profile import parse_facts
from replay.recording import JsonlWriter, Writer, open_recording
from replay.runs import Item, events_of, items_of
from replay.stream import MemoryStream
from replay.units import AsId, Gfn, Gpa, Hva, SlotId

ROOT = Path(__file__).resolve().parent.parent.parent
SECRET = "sEcReT-plans"
HOST_BITS = 0x7ABC
"""Bits 32 to 46 of the host addresses that are planted."""
PID, TID = 713_705, 713_709
TIME_NS = 1_767_225_600_123_456_789
EACH = 5


def secret(field: FieldSpec, number: int) -> Any:
    """Return a value that gives away something of the host, for a text; for others one that is allowed."""
    if field.shape == "str":
        return f"{SECRET} {number}"
    if field.shape == "enum":
        return field.choices[0]
    return {"uint": number, "int": 0, "bool": False, "uints": (), "values": (), "value": None}[field.shape]


def planted(cls: type[Any], number: int, **more: Any) -> Any:
    """Return a value with secrets in every text that it has."""
    filled = {name: secret(field, number) for name, field in specs(cls).items()}
    return cls(**(filled | more))


def events() -> list[Event]:
    """Return events of every kind with a secret in each text, host addresses, tasks and absolute times."""
    task = Task(pid=PID, tid=TID)
    found: list[Event] = [VmCreate(vm=1, ret=7, task=task, time_ns=TIME_NS)]
    for number, cls in enumerate(all_kinds()):
        more: dict[str, Any] = {"task": task, "time_ns": TIME_NS + number, "vm": 1}
        names = specs(cls)
        more = {name: value for name, value in more.items() if name in names}
        if "enter_time_ns" in names:
            more["enter_time_ns"] = TIME_NS + number - 1
        if "guest_phys_addr" in names:
            more["guest_phys_addr"] = Gpa((HOST_BITS << 32) + (number << 12))
        if "userspace_addr" in names:
            more["userspace_addr"] = Hva((HOST_BITS << 32) + (number << 12))
        if "gfn" in names:
            more["gfn"] = Gfn((HOST_BITS << 20) + number)
        if "level" in names:
            more["level"] = 1
        if cls is Observe:
            count = ObservedCount(gfn=Gfn((HOST_BITS << 20) + 5), count=1)
            slot = ObservedSlot(AsId(0), SlotId(0), Gfn(HOST_BITS << 20), 16, 0, counts=(count,))
            more |= {"state": ObservedVm(slots=(slot,)), "areas": (ObservedArea(f"{SECRET}_alloc", 1, 1, 0, 0),)}
        if cls.KIND not in {"vm.create", "vm.attach"}:
            found.append(planted(cls, number + 2, **more))
    return found


def header() -> Header:
    """Return a header with a secret in each text."""
    return Header(
        title=SECRET,
        provenance=SECRET,
        clock="realtime",
        machine=Machine(kernel_release=f"6.8.1-{SECRET}", vendor=SECRET),
        tools=(Tool(name=SECRET, version=f"1.2-{SECRET}", command=SECRET), Tool(name="strace", version="6.1", command=SECRET)),
        sources=(SourceFile(name=f"{SECRET}.txt", format=f"{SECRET}"), SourceFile(name=SECRET, format="strace")),
    )


def scrubbed(head: Header, items: list[Item], trailer: Trailer) -> tuple[Header, list[Item], Trailer]:
    """Return a recording scrubbed."""
    stream = Scrub().see(MemoryStream(head, items, trailer)).stream(MemoryStream(head, items, trailer))
    return stream.header, list(stream.items()), stream.trailer()


def written(kind: type[Writer] | type[JsonlWriter], head: Header, items: list[Item], trailer: Trailer) -> bytes:
    """Return the bytes of a recording."""
    out = io.BytesIO()
    with kind(out, head) as writer:
        for item in items:
            writer.write(item)
        writer.finish(trailer)
    return out.getvalue()


def traces_of(data: bytes) -> list[str]:
    """Return which secrets are in a text."""
    words = {
        "text": SECRET.encode(),
        "pid": str(PID).encode(),
        "tid": str(TID).encode(),
        "time": str(TIME_NS)[:9].encode(),
        "host bits": hex(HOST_BITS).encode(),
    }
    numbers = [token for token in data.replace(b",", b" ").replace(b"}", b" ").split() if token.isdigit()]
    high = any(int(token) >> 32 == HOST_BITS or int(token) >> 20 == HOST_BITS for token in numbers)
    return [name for name, word in words.items() if word in data] + ["address"] * high


class TestSecrets:
    """What tells of the host is in no byte of the copy."""

    def test_none_is_left(self) -> None:
        """Planted in each text, address, task and time of every kind of event, of the header and of the trailer."""
        assert len(events()) > 20
        items: list[Item] = list(items_of(events()))
        counters = (Counter(kind=SECRET, count=1, first=f"{SECRET}:5", severity="unknown"),)
        before = header(), items, Trailer(counters=counters)
        assert traces_of(written(JsonlWriter, *before)) == ["text", "pid", "tid", "time", "address"]
        after = scrubbed(*before)
        assert traces_of(written(JsonlWriter, *after)) == []
        assert SECRET.encode() not in written(Writer, *after)
        assert len(list(events_of(iter(after[1])))) == len(events())

    def test_labels(self) -> None:
        """The same text gets the same label, so that a loss and its counter still belong together."""
        labels = Labels()
        assert [labels.label("kind", text) for text in ("a", "b", "a", "")] == ["kind 1", "kind 2", "kind 1", ""]
        assert labels.label("mark", "a") == "mark 1"

    def test_facts_of_the_machine_stay(self) -> None:
        """What decides about KVM stays; of the release its numbers, of unknown vendors nothing."""
        machine = Machine(kernel_release="6.12.117+deb13-amd64", tdp=False, smm=True, vendor="amd", max_phys_bits=48)
        after, _items, _trailer = scrubbed(attrs.evolve(header(), machine=machine), list(items_of(events())), Trailer())
        assert after.machine == attrs.evolve(machine, kernel_release="6.12.117")
        assert [tool.name for tool in after.tools] == ["other", "strace"]
        assert [source.name for source in after.sources] == ["source-0", "source-1"]
        assert scrubbed(header(), list(items_of(events())), Trailer())[0].machine.vendor == "other"


class TestAddresses:
    """Addresses move by whole GiB and keep every relation."""

    @pytest.mark.parametrize("ends", [HVA_ENDS, GPA_ENDS], ids=["hva", "gpa"])
    def test_relations(self, ends: tuple[int, ...]) -> None:
        """Order, overlap, distance within what touches, place in a GiB, and the side of each end are kept."""
        dice = random.Random(5)
        moved = 0
        for _ in range(60):
            ranges = [
                (dice.choice((0, 1 << 40, 1 << 46, (1 << 47) - (3 << 30), 1 << 62)), dice.randrange(1 << 40)) for _ in range(8)
            ]
            spots = [(base + (offset & ~0xFFF), dice.choice((0x1000, 1 << 21, 3 << 30, 1 << 38))) for base, offset in ranges]
            found = AddressMap(ends)
            for address, size_bytes in spots:
                found.see(address, size_bytes)
            found.settle()
            after = [(found.place(address), size_bytes) for address, size_bytes in spots]
            for (a, size_a), (new_a, _) in zip(spots, after, strict=True):
                assert (a - new_a) % (1 << GIB_SHIFT) == 0
                assert [a >= end for end in ends] == [new_a >= end for end in ends]
                assert [a + size_a > end for end in ends] == [new_a + size_a > end for end in ends]
                moved += a != new_a
                for (b, size_b), (new_b, _) in zip(spots, after, strict=True):
                    assert (a < b, a == b) == (new_a < new_b, new_a == new_b)
                    assert (a < b + size_b) == (new_a < new_b + size_b)
        assert moved > 100

    def test_host_bits_go(self) -> None:
        """Two runs of a program at two random places give the same addresses."""
        placed = []
        for base in (0x7F12_4000_0000, 0x7E55_8000_0000):
            found = AddressMap(HVA_ENDS)
            spots = [base + offset for offset in (0, 1 << 21, 5 << 30)]
            for spot in spots:
                found.see(spot, 4096)
            found.settle()
            placed.append([found.place(spot) for spot in spots])
        assert placed[0] == placed[1]

    def test_unseen(self) -> None:
        """An address that was not seen has no place: that is a mistake of the caller."""
        found = AddressMap(HVA_ENDS)
        found.see(0x7F12_4000_0000)
        found.settle()
        with pytest.raises(AssertionError, match="not seen"):
            found.place(0x7F13_4000_0000)


def _plain(report: CompareReport) -> tuple[Any, ...]:
    lanes = tuple((lane.name, lane.arrays, lane.horizon, lane.checked, lane.write_track) for lane in report.lanes)
    pairs = tuple((pair.strongest, pair.classes, len(pair.findings)) for pair in report.pairs)
    return (report.verdict, lanes, pairs, len(report.uncertainties), [f.catalogue for f in report.agreements])


def paths() -> list[Path]:
    """Return recordings of each kind."""
    real = sorted((ROOT / "recordings" / "real").glob("*.kvmr"))
    kernel = sorted((ROOT / "recordings" / "kernel").rglob("*.kvmr"))[::15]
    written_by_hand = sorted((ROOT / "recordings" / "catalogue").glob("*.jsonl"))[::EACH]
    return [path for path in [*real, *kernel, *written_by_hand] if path.stat().st_size < 30_000]


class TestAnswers:
    """Nothing that an analysis needs is lost."""

    @pytest.mark.parametrize("path", paths(), ids=lambda path: path.stem)
    def test_same(self, path: Path) -> None:
        """Verdict, bytes, findings, doubts and comparisons of a scrubbed recording are those of the whole one."""
        source = open_recording(str(path))
        head, items = source.header, list(source.items())
        trailer = source.trailer()
        after = scrubbed(head, items, trailer)
        whole, copy = MemoryStream(head, items, trailer), MemoryStream(*after)
        assert _plain(compare(copy, make_lanes(["eager", "on-demand"], after[0].machine))) == _plain(
            compare(whole, make_lanes(["eager", "on-demand"], head.machine))
        )
        facts = parse_facts("release=6.8") if head.machine.kernel_release is None else {}
        first, second = check(MemoryStream(head, items, trailer), facts), check(MemoryStream(*after), facts)
        same = ("checked", "agreed", "not_checkable", "doubtful", "mismatch_count", "facets", "events")
        assert [getattr(first, name) for name in same] == [getattr(second, name) for name in same]

    def test_there_are_many(self) -> None:
        """The comparison above is made for many recordings, and some have addresses that move."""
        moved = 0
        for path in paths():
            events_seen = events_of(open_recording(str(path)).items())
            moved += any(isinstance(event, MemslotSet) and event.userspace_addr >> 40 for event in events_seen)
        assert (len(paths()) > 45, moved > 12) == (True, True)
