"""Golden files: written, read back, held against what is found now, with people's comments kept."""

from pathlib import Path

import pytest
from golden_samples import CASE, D02, D08, POLICY, ROOT, copied, replaced

from replay.analyses.golden_report import GoldenFile
from replay.errors import KvmReplayError
from replay.events import Mark, VmCreate
from replay.golden.differences import differences
from replay.golden.document import Form, file_opener, golden_text
from replay.golden.files import Wish, check_golden, found_in, golden_of, update_golden
from replay.golden.merge import carried
from replay.golden.parsed import parse
from replay.golden.questions import Question, question_of
from replay.header import Header, Machine, Trailer
from replay.recording import Writer
from replay.runs import items_of


def told(file: GoldenFile) -> list[tuple[str, int | None, list[tuple[str, str | None, str | None]]]]:
    """Return the differences of a file in short: place, event, and each line before and after."""
    return [(d.place, d.event, [(one.what, one.before, one.after) for one in d.details]) for d in file.differences]


class TestText:
    """What a golden file says."""

    def test_whole(self) -> None:
        """It says what it is of, its machine, its events with results, and the answer with totals, findings and a digest."""
        text = golden_text(file_opener(str(D02)), Form((Question("compare", lanes="eager,on-demand"),), D02.name))
        lines = text.splitlines()
        assert lines[:2] == ["kvm-replay golden/1", "recording: D02-register.jsonl"]
        assert "  notifier.register vm=0  # 0" in lines
        assert "  verdict: divergence" in lines
        assert "  on-demand against eager: bytes-only" in lines
        assert "    event 1 memslot.set vm 0 slot 0 as 0, D2: bytes-only, -320 bytes (-4096 charged), also D29 D30" in lines
        assert "    gfn_write_track: 2 made, 0 left; peak 524096, charged 528384, real 529416; ever 524096; end 0" in lines
        assert lines[-1].startswith("  digest: ")
        assert all(line == line.rstrip() for line in lines)
        assert str(ROOT) not in text

    def test_large(self) -> None:
        """Of a large recording it counts events by kind and lists the first findings; the digest is that of all of them."""
        question = (question_of("compare"),)
        path = str(ROOT / "recordings" / "kernel" / "6.12-npt1" / "16-fail-create.kvmr")
        whole, short = (golden_text(file_opener(path), Form(question, "x", listed_max)) for listed_max in (None, 0))
        assert "events: 170, 10 VMs, not listed" in short.splitlines()
        assert "  memslot.set: 30" in short.splitlines()
        assert whole.count("\n    event ") > short.count("\n    event ") == 20
        assert f"    and more: {whole.count(chr(10) + '    event ') - 20}" in short.splitlines()
        assert whole.splitlines()[-1] == short.splitlines()[-1]

    def test_events_are_an_input(self, tmp_path: Path) -> None:
        """Taken from its recording, a golden file is a case by itself, and gives the same answer."""
        (path,) = copied(tmp_path, D08)
        text = path.read_text()
        case = tmp_path / "case.golden"
        case.write_text(text.replace("recording: D08-partial-register.jsonl\n", ""))
        assert check_golden(str(case)).state == "same"
        replaced(case, ("  # -ENOMEM", "  # 0"))
        assert check_golden(str(case)).state == "differs"

    def test_no_question(self) -> None:
        """A golden file that asks nothing is an error, not a pass."""
        with pytest.raises(KvmReplayError, match="no question"):
            golden_text(file_opener(str(D02)), Form((), D02.name))


class TestQuestions:
    """Questions are a verb with its options."""

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("compare", "compare: --lanes eager,on-demand"),
            ("compare: --profile tdp=0 --lanes 6.8,6.9", "compare: --lanes 6.8,6.9 --profile tdp=0"),
            ("compare --lanes=eager,./a.py", "compare: --lanes eager,./a.py"),
            ("check", "check:"),
            ("check --policy eager", "check: --policy eager"),
        ],
    )
    def test_line(self, text: str, line: str) -> None:
        """Each is written in one form, which is read back."""
        assert question_of(text).line() == line
        assert question_of(line) == question_of(text)

    @pytest.mark.parametrize(
        "text",
        [
            "cost",
            "check --lanes eager",
            "compare --lanes",
            "compare eager",
            "compare --lanes a --lanes b",
            "check '",
            "check --profile tdp=2x",
        ],
    )
    def test_misfit(self, text: str) -> None:
        """Another verb, option or form is an error with its code."""
        with pytest.raises(KvmReplayError) as caught:
            question_of(text)
        assert caught.value.code == "KVR108"


class TestCheck:
    """A golden file is held against what is found now."""

    def test_same(self, tmp_path: Path) -> None:
        """Written files say what is found, and a second update has nothing to write."""
        for path in copied(tmp_path, D02, D08):
            assert check_golden(str(path)).state == "same"
            assert update_golden(str(path), Wish()).state == "kept"

    def test_finding(self, tmp_path: Path) -> None:
        """A finding that is another one is named with event, class and lane, before and after; the digest is not news then."""
        (path,) = copied(tmp_path)
        replaced(
            path,
            ("slot 0 as 0, D2: bytes-only, -320 bytes", "slot 0 as 0, D2: enomem-new, -32 bytes"),
            ("      eager: event 2 memslot.set", "      eager: event 0 memslot.set"),
        )
        place = "on-demand against eager, event 1 memslot.set vm 0 slot 0 as 0, D2"
        found = check_golden(str(path))
        before, after = "enomem-new, -32 bytes (-4096 charged)", "bytes-only, -320 bytes (-4096 charged)"
        assert told(found)[0] == (place, 1, [("", f"{before}, also D29 D30", f"{after}, also D29 D30")])
        assert [(place, [detail[0] for detail in details]) for place, _event, details in told(found)[1:]] == [
            ("on-demand against eager, event 2 memslot.set vm 0 slot 1 as 0, D2", ["eager"])
        ]
        lines = path.read_text().splitlines()
        assert place.split(", ", 1)[1] in lines[found.differences[0].line - 1]
        assert found.differences[0].question == "compare: --lanes eager,on-demand"

    def test_new_and_gone(self, tmp_path: Path) -> None:
        """A finding that was not there, and one that is not any more, are told with all that they say."""
        (path,) = copied(tmp_path)
        replaced(path, ("    event 1 memslot.set vm 0 slot 0 as 0", "    event 1 memslot.set vm 0 slot 9 as 0"))
        gone, new = told(check_golden(str(path)))
        assert all(after is None for _what, _before, after in gone[2])
        assert all(before is None for _what, before, _after in new[2])
        assert [what for what, *_rest in gone[2]] == [what for what, *_rest in new[2]] == ["", "eager", "on-demand", "course"]

    def test_totals(self, tmp_path: Path) -> None:
        """Totals of a lane, and the verdict, are told under their names."""
        (path,) = copied(tmp_path)
        replaced(path, ("verdict: divergence", "verdict: same"), ("    lpage_info: 4 made", "    lpage_info: 5 made"))
        places = [(place, [detail[0] for detail in details]) for place, _event, details in told(check_golden(str(path)))]
        assert places == [("verdict", [""]), ("eager", ["lpage_info"]), ("on-demand", ["lpage_info"])]

    def test_digest_alone(self, tmp_path: Path) -> None:
        """A digest that is the only difference is told: what is not listed differs."""
        (path,) = copied(tmp_path)
        text = path.read_text()
        digest = text.rpartition("digest: ")[2].strip()
        replaced(path, (digest, "0" * 16))
        assert told(check_golden(str(path))) == [("digest", None, [("", "0" * 16, digest)])]

    def test_recording_changed(self, tmp_path: Path) -> None:
        """Events that are others are told as one stretch, what is alike before and behind left out."""
        (path,) = copied(tmp_path)
        recording = tmp_path / D02.name
        replaced(recording, ('"gfn": 10816', '"gfn": 10817'))
        ((place, event, details),) = told(check_golden(str(path)))
        assert (place, event) == ("events from 4 on", 4)
        assert [before for _what, before, _after in details if before] == [
            "write_track.add vm=0 gfn=0x2a40  # 0",
            "write_track.remove vm=0 gfn=0x2a40  # 0",
        ]
        assert len(details) == 4

    @pytest.mark.parametrize(
        ("change", "state", "words"),
        [
            (("recording: D02", "recording: D03"), "trouble", "KVR108"),
            (("kvm-replay golden/1", "kvm-replay golden/9"), "trouble", "another version"),
            (("compare: --lanes eager", "compare: --lanes lazy"), "trouble", "KVR300"),
            (("compare: --lanes eager,on-demand", "compare: --lanes ./none.py"), "trouble", "KVR301"),
            (("  vm.create", " vm.create"), "same", ""),
        ],
    )
    def test_trouble(self, change: tuple[str, str], state: str, words: str, tmp_path: Path) -> None:
        """A file that is not written as one, or asks what can not be answered, is trouble with its code."""
        (path,) = copied(tmp_path)
        replaced(path, change)
        found = check_golden(str(path))
        assert found.state == state
        assert words in f"{found.code} {found.trouble}"

    def test_missing_and_unused(self, tmp_path: Path) -> None:
        """A recording without golden file, and a golden file without recording, are failures of their own."""
        copied(tmp_path, D02, golden=False)
        (unused,) = copied(tmp_path, D08)
        (tmp_path / D08.name).unlink()
        states = {Path(path).name: check_golden(path).state for path in found_in([str(tmp_path)])}
        assert states == {f"{D02.name}.golden": "missing", f"{D08.name}.golden": "unused"}
        assert update_golden(str(unused), Wish()).state == "unused"

    def test_nothing(self, tmp_path: Path) -> None:
        """A folder with nothing to check is an error, and so is a path that is not there."""
        with pytest.raises(KvmReplayError) as caught:
            found_in([str(tmp_path)])
        assert caught.value.code == "KVR107"
        with pytest.raises(KvmReplayError) as caught:
            found_in([str(tmp_path / "none.kvmr")])
        assert caught.value.code == "KVR002"

    def test_paths(self, tmp_path: Path) -> None:
        """Recording and golden file stand for the same, folders are walked in order, hidden ones not."""
        (tmp_path / "b" / ".hidden").mkdir(parents=True)
        for name in ("b/x.kvmr", "b/x.kvmr.golden", "a.jsonl", "notes.txt", "case.golden", "b/.hidden/y.kvmr"):
            (tmp_path / name).write_text("")
        found = [str(Path(path).relative_to(tmp_path)) for path in found_in([str(tmp_path), str(tmp_path / "b" / "x.kvmr")])]
        assert found == ["a.jsonl.golden", "case.golden", "b/x.kvmr.golden"]
        assert golden_of("x.golden") == "x.golden"


class TestUpdate:
    """A golden file is written anew, and people's words stay."""

    def test_comments_stay(self, tmp_path: Path) -> None:
        """Comments stay before the line that they stood before, and remarks behind their event, when everything else moves."""
        (path,) = copied(tmp_path)
        replaced(
            path,
            ("  notifier.register vm=0  # 0", "  # the vGPU\n\n  # is opened\n  notifier.register vm=0  # 0 slow"),
            ("  vm.destroy vm=0", "  vm.destroy vm=0  # the end"),
            ("compare:", "# the question\ncompare:"),
            ("    event 2 memslot", "    # the large one\n    event 2 memslot"),
            ("    event 1 memslot.set vm 0 slot 0 as 0", "    # will be gone\n    event 7 memslot.set vm 0 slot 0 as 0"),
        )
        path.write_text(f"{path.read_text()}\n# last words\n")
        assert update_golden(str(path), Wish()).state == "written"
        text = path.read_text()
        assert "  # the vGPU\n\n  # is opened\n  notifier.register vm=0  # 0 slow\n" in text
        assert "  vm.destroy vm=0  # the end\n" in text
        assert "\n\n# the question\ncompare:" in text
        assert "    # will be gone\n    # the large one\n    event 2 memslot" in text
        assert text.endswith("\n# last words\n")
        assert update_golden(str(path), Wish()).state == "kept"
        assert check_golden(str(path)).state == "same"

    def test_remark_of_a_lost_event(self, tmp_path: Path) -> None:
        """A remark behind an event that is gone becomes a comment."""
        (path,) = copied(tmp_path)
        replaced(path, ("  write_track.add vm=0 gfn=0x2a40  # 0", "  write_track.add vm=0 gfn=0x2a40  # 0 here"))
        replaced(tmp_path / D02.name, ('{"event": "write_track.add", "vm": 0, "gfn": 10816, "ret": 0}\n', ""))
        assert update_golden(str(path), Wish()).state == "written"
        assert "  # write_track.add vm=0 gfn=0x2a40: here\n  write_track.remove" in path.read_text()

    def test_by_hand(self, tmp_path: Path) -> None:
        """A case by hand keeps its events and comments and gets its answers; without a question it gets the usual one."""
        path = tmp_path / "case.golden"
        path.write_text(CASE)
        assert check_golden(str(path)).state == "differs"
        assert update_golden(str(path), Wish()).state == "written"
        text = path.read_text()
        assert "  # KVMGT opens its vGPU\n  notifier.register vm=0  # 0 and may sleep\n" in text
        assert "# nothing but this file" in text
        assert "events: 3, 1 VM\n" in text
        assert check_golden(str(path)).state == "same"

    def test_wishes(self, tmp_path: Path) -> None:
        """Questions and the listing of events are the file's own, unless something else is asked for."""
        (path,) = copied(tmp_path)
        asked = (question_of("check"), question_of("compare --lanes 6.8,6.9"))
        assert update_golden(str(path), Wish(questions=asked, listed_max=3)).state == "written"
        text = path.read_text()
        assert "\ncheck:\n" in text
        assert "\ncompare: --lanes 6.8,6.9\n" in text
        assert "events: 8, 1 VM, not listed" in text
        path.write_text(text.replace("verdict: agrees", "verdict: odd"))
        assert update_golden(str(path), Wish()).state == "written"
        assert path.read_text() == text
        assert update_golden(str(path), Wish(listed_max=8)).state == "written"
        assert "  vm.create vm=0  # 10" in path.read_text()

    def test_new_only(self, tmp_path: Path) -> None:
        """With new_only a file that is there stays as it is."""
        (path,) = copied(tmp_path)
        replaced(path, ("verdict: divergence", "verdict: same"))
        assert update_golden(str(path), Wish(new_only=True)).state == "kept"
        assert check_golden(str(path)).state == "differs"

    def test_not_writable(self, tmp_path: Path) -> None:
        """What can not be written is trouble, and leaves nothing behind."""
        (path,) = copied(tmp_path, golden=False)
        path.with_name(f"{path.name}.part").mkdir()
        assert update_golden(str(path), Wish()).code == "KVR004"
        assert not path.exists()

    def test_many_lines(self) -> None:
        """Carrying comments and telling differences looks at each line a few times, however many there are."""
        head = "kvm-replay golden/1\nevents: 1, not listed\ncompare:\n  a against b: x\n"
        sides = []
        for word in ("one", "two"):
            blocks = [f"    # remark {n}\n    event {n} memslot.set: {word}\n      a: {n}\n" for n in range(3_000)]
            sides.append(head + "".join(blocks))
        old, new = (parse(side, "x") for side in sides)
        assert len(differences(old, new, events_too=True)) == 3_000
        assert carried(sides[0], old, sides[1].replace("    # remark", "    # lost"), new).count("# remark") == 3_000


class TestPolicyFiles:
    """A golden file can ask about a policy file; it is found from the golden file's folder."""

    def test_beside(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Wherever one stands, the file is the one beside the golden file; one line changed in it shows as findings."""
        (path,) = copied(tmp_path)
        policy = tmp_path / "mine.py"
        policy.write_text(POLICY)
        monkeypatch.chdir(ROOT)
        asked = (question_of("compare --lanes on-demand,./mine.py"),)
        assert update_golden(str(path), Wish(questions=asked)).state == "written"
        assert "./mine.py against on-demand: nothing" in path.read_text()
        policy.write_text(POLICY.replace("config and ext", "config"))
        found = check_golden(str(path))
        assert found.state == "differs"
        assert ("./mine.py against on-demand, event 1 memslot.set vm 0 slot 0 as 0, D2", 1) in {
            (place, event) for place, event, _details in told(found)
        }


class TestLargeInput:
    """A recording of many events costs no more than its replay."""

    def test_not_listed(self, tmp_path: Path) -> None:
        """Events that are too much text, or too many, are not listed; and no more are kept in memory than may be listed."""
        path = tmp_path / "big.kvmr"
        with Writer(path, Header(machine=Machine(kernel_release="6.12.0"))) as writer:
            events = [VmCreate(vm=0, ret=3), *(Mark(text="x" * 4000) for _ in range(150))]
            for item in items_of(events):
                writer.write(item)
            writer.finish(Trailer())
        golden = f"{path}.golden"
        assert update_golden(golden, Wish()).state == "written"
        assert "events: 151, 1 VM, not listed" in Path(golden).read_text()
        assert check_golden(golden).state == "same"
