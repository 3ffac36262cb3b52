"""Promises of the frame: exit status, streams, errors, colour; with verbs made for the test."""

import argparse
import gzip
import io
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_samples import ROOT

from replay.cli import main
from replay.cli.console import Console, wants_color
from replay.cli.entry import error_line
from replay.cli.progress import Progress
from replay.cli.verb import Verb, add_output
from replay.errors import DamagedError, KvmReplayError, UnwritableError, UsageError
from replay.sources.files import Input
from replay.sources.meter import Meter


def verb(run: Callable[[argparse.Namespace, Console], int]) -> Verb:
    """Return a verb called `act` that does this."""
    return Verb("act", "act", "Act.", "nothing", {0: "done", 2: "trouble"}, ("kvm-replay act",), add_output, run)


def act(run: Callable[[argparse.Namespace, Console], int], *arguments: str) -> int:
    """Run `act` in this process and return its status."""
    return main(["act", *arguments], [verb(run)])


def raises(error: BaseException) -> Callable[[argparse.Namespace, Console], int]:
    """Return what a verb does that fails."""

    def run(_args: argparse.Namespace, _console: Console) -> int:
        raise error

    return run


def writes(text: str) -> Callable[[argparse.Namespace, Console], int]:
    """Return what a verb does that writes a result."""

    def run(args: argparse.Namespace, console: Console) -> int:
        with console.result(args.output) as out:
            out.write(text)
        return 0

    return run


class TestStatus:
    """Each way to end has its status."""

    @pytest.mark.parametrize("status", [0, 1, 2, 3])
    def test_of_the_verb(self, status: int) -> None:
        """The verb's status is the program's."""
        assert act(lambda _args, _console: status) == status

    @pytest.mark.parametrize(
        ("error", "status", "said"),
        [
            (
                DamagedError("found", where="a.kvmr", expected="else", advice="do"),
                2,
                "KVR101 damaged recording: a.kvmr: found; expected else. Do",
            ),
            (FileNotFoundError(2, "No such file", "a.kvmr"), 2, "KVR000 trouble: a.kvmr: No such file"),
            (OSError("odd"), 2, "KVR000 trouble: OSError"),
            (MemoryError(), 2, "KVR000 trouble: out of memory"),
            (KeyboardInterrupt(), 130, "interrupted"),
        ],
    )
    def test_of_an_error(self, error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
        """An error is one sentence on standard error."""
        assert act(raises(error)) == status
        streams = capsys.readouterr()
        assert (streams.out, streams.err) == ("", f"kvm-replay: {said}\n")

    @pytest.mark.parametrize("error", [TypeError("no"), AssertionError(), RecursionError("deep"), KeyError("k")])
    def test_of_a_bug(self, error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
        """Anything unforeseen is called a bug, in one line; the traceback comes with --debug only."""
        assert act(raises(error)) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert type(error).__name__ in said
        assert "please report" in said
        assert act(raises(error), "--debug") == 2
        assert "Traceback" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "arguments",
        [[], ["nonsense"], ["act", "--nonsense"], ["act", "--color", "blue"], ["act", "--deb"], ["act", "stray"], ["-x"]],
    )
    def test_of_bad_usage(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        """Bad usage is an error like any other, and points to the help; options are not guessed from their first letters."""
        assert main(arguments, [verb(writes(""))]) == 2
        streams = capsys.readouterr()
        assert streams.out == ""
        assert streams.err.startswith("kvm-replay: KVR001 bad usage: ")
        assert "--help` says more" in streams.err
        assert streams.err.count("\n") == 1

    def test_of_a_closed_pipe_met_by_a_writer(self) -> None:
        """A closed pipe that a writer reports as its own error is still a closed pipe."""
        error = UnwritableError("broken pipe")
        error.__context__ = BrokenPipeError()
        assert act(raises(error)) == 141

    def test_hostile_error_text(self) -> None:
        """An error with control characters stays on one line."""
        assert error_line(UsageError("a\nb")) == "KVR001 bad usage: a\nb"
        assert error_line(KvmReplayError("x")) == "KVR000 trouble: x"


class TestResult:
    """Results go where they are sent, whole or not at all."""

    def test_standard_output(self, capsys: pytest.CaptureFixture[str]) -> None:
        """By default, and for -, the result is on standard output and nothing is on standard error."""
        for arguments in ([], ["--output", "-"]):
            assert act(writes("x\n"), *arguments) == 0
            assert capsys.readouterr() == ("x\n", "")

    def test_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A file replaces an older one; standard output stays empty; nothing else is left behind."""
        target = tmp_path / "report.txt"
        target.write_text("old")
        assert act(writes("new\n"), "--output", str(target)) == 0
        assert (target.read_text(), capsys.readouterr().out, [path.name for path in tmp_path.iterdir()]) == (
            "new\n",
            "",
            ["report.txt"],
        )

    def test_failed_file(self, tmp_path: Path) -> None:
        """A verb that fails leaves the older file as it was."""

        def run(args: argparse.Namespace, console: Console) -> int:
            with console.result(args.output) as out:
                out.write("half")
                raise DamagedError("found")

        target = tmp_path / "report.txt"
        target.write_text("old")
        assert act(run, "--output", str(target)) == 2
        assert (target.read_text(), [path.name for path in tmp_path.iterdir()]) == ("old", ["report.txt"])

    def test_device(self) -> None:
        """A device is written through and stays a device."""
        assert act(writes("x"), "--output", "/dev/null") == 0
        assert not Path("/dev/null").is_file()
        assert not Path("/dev/null.part").exists()

    @pytest.mark.parametrize("name", ["", "no/such/folder/x", "folder"])
    def test_unwritable(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A place that can not be written is trouble, said as such."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "folder").mkdir()
        assert act(writes("x"), "--output", name) == 2
        assert capsys.readouterr().err.startswith("kvm-replay: KVR004 cannot write: ")

    def test_output_that_is_an_input(self, tmp_path: Path) -> None:
        """A result never overwrites what it is made from, under whatever name."""
        source = tmp_path / "a"
        source.write_text("precious")
        (tmp_path / "b").symlink_to(source)
        for name in ("a", "b", "../" + tmp_path.name + "/a"):
            with pytest.raises(UsageError), Console().result(str(tmp_path / name), inputs=["-", str(source)]):
                pass
        assert source.read_text() == "precious"

    def test_unprintable_name(self, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
        """A file name that is no text is printed with escapes rather than ending in an error."""
        assert act(writes("\udcff\n")) == 0
        assert capsysbinary.readouterr().out == b"\\udcff\n"


PROGRAM = """
import sys, time
from replay.cli import main
from replay.cli.verb import Verb, add_output
def run(args, console):
    with console.result(args.output) as out:
        {body}
    return 0
sys.exit(main(["act"], [Verb("act", "", "", "", {{}}, (), add_output, run)]))
"""


def shell(body: str, redirection: str) -> subprocess.CompletedProcess[str]:
    """Run a verb with this body in a process of its own, under a shell redirection; the status is the program's."""
    command = f'"$0" -c "$1" {redirection}'
    return subprocess.run(
        ["bash", "-c", command, sys.executable, PROGRAM.format(body=body)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


class TestRealStreams:
    """Streams that are closed, full or broken end without a traceback."""

    def test_closed_pipe(self) -> None:
        """`| head` ends quietly, with the status of SIGPIPE."""
        done = shell("out.writelines('line\\n' for _ in range(10**6))", "| head -n 1; exit ${PIPESTATUS[0]}")
        assert (done.returncode, done.stdout, done.stderr) == (141, "line\n", "")

    def test_closed_pipe_at_the_end(self) -> None:
        """A reader that is gone before a small result is flushed is met as quietly."""
        done = shell("time.sleep(0.3); out.write('x')", "| true; exit ${PIPESTATUS[0]}")
        assert (done.returncode, done.stderr) == (141, "")

    def test_full_device(self) -> None:
        """A full device is trouble, also when only the last flush meets it."""
        done = shell("out.write('x')", "> /dev/full")
        assert (done.returncode, done.stderr) == (
            2,
            "kvm-replay: KVR004 cannot write: standard output: No space left on device\n",
        )

    def test_closed_output(self) -> None:
        """A result without a place to go is trouble, not silence."""
        done = shell("out.write('x')", ">&-")
        assert (done.returncode, done.stderr) == (
            2,
            "kvm-replay: KVR004 cannot write: standard output is closed. Give --output FILE\n",
        )

    def test_closed_error_stream(self) -> None:
        """A closed standard error changes nothing."""
        done = shell("console.warn('w'); out.write('x')", "2>&-")
        assert (done.returncode, done.stdout) == (0, "x")

    def test_interrupt(self) -> None:
        """SIGINT ends with one line and status 130."""
        program = PROGRAM.format(body="out.write('ready\\n'); out.flush(); time.sleep(60)")
        with subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=30)[1] == "kvm-replay: interrupted\n"
        assert process.returncode == 130


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say yes."""
        return True


class TestColor:
    """Colour is for terminals, and can be refused or forced."""

    @pytest.mark.parametrize(
        ("choice", "stream", "environ", "colored"),
        [
            ("auto", Terminal(), {}, True),
            ("auto", Terminal(), {"TERM": "xterm", "NO_COLOR": ""}, True),
            ("auto", Terminal(), {"NO_COLOR": "1"}, False),
            ("auto", Terminal(), {"TERM": "dumb"}, False),
            ("auto", io.StringIO(), {}, False),
            ("always", io.StringIO(), {"NO_COLOR": "1", "TERM": "dumb"}, True),
            ("never", Terminal(), {}, False),
        ],
    )
    def test_choice(self, choice: str, stream: io.StringIO, environ: dict[str, str], colored: bool) -> None:
        """--color wins over NO_COLOR and TERM, which win over the terminal."""
        assert wants_color(choice, stream, environ) is colored


class TestProgress:
    """Progress is seen on terminals only, and goes away."""

    def test_silent_without_a_terminal(self) -> None:
        """Without a stream the items pass through and are counted."""
        progress = Progress("reading", None)
        assert list(progress.over([1, [2, 3]])) == [1, [2, 3]]
        assert progress.events == 3

    def test_line_on_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The line rewrites itself, is erased at the end, and leaves standard output alone."""
        clock = iter(range(10_000))
        monkeypatch.setattr("replay.cli.progress.time.monotonic", lambda: float(next(clock)))
        terminal, output = Terminal(), io.StringIO()
        monkeypatch.setattr(sys, "stdout", output)
        for item in Progress("reading", terminal).over([1, 2], total_events=4):
            print(item)
        drawn = terminal.getvalue()
        assert "reading: 1 events, 25 %" in drawn
        assert "reading: 2 events, 50 %" in drawn
        assert drawn.rstrip().endswith("\x1b[2K"), "the last thing done is to erase the line"
        assert output.getvalue() == "1\n2\n"

    def test_bytes_that_were_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """While inputs are read the line says how much of them: a share where their size is known."""
        clock = iter(range(10_000))
        monkeypatch.setattr("replay.cli.progress.time.monotonic", lambda: float(next(clock)))
        path = tmp_path / "trace.txt"
        path.write_bytes(bytes(4 << 20))
        meter, terminal = Meter([Input(path)]), Terminal()
        with meter.inputs[0].open() as stream:
            for _item in Progress("importing", terminal).over([1, 2], meter=meter):
                stream.read(1 << 20)
        drawn = terminal.getvalue()
        assert "importing: 1 event, 1.0 MiB, 25 %, 1.0 MiB/s" in drawn
        assert "importing: 2 events, 2.0 MiB, 50 %, 1.0 MiB/s" in drawn

    def test_bytes_of_compressed_inputs(self, tmp_path: Path) -> None:
        """Of a compressed input the bytes as they are stored count, and all are read at its end."""
        path = tmp_path / "trace.txt.gz"
        path.write_bytes(gzip.compress(random.Random(0).randbytes(1 << 16)))
        meter = Meter([Input(path)])
        assert meter.read_bytes == 0
        with meter.inputs[0].open() as stream:
            assert len(stream.read()) == 1 << 16
            assert meter.read_bytes == meter.total_bytes == path.stat().st_size

    def test_rich_is_not_for_short_jobs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A job that ends before the first interval draws nothing and imports nothing."""
        monkeypatch.setattr("replay.cli.progress.time.monotonic", lambda: 0.0)
        monkeypatch.setitem(sys.modules, "rich.progress", None)
        terminal = Terminal()
        assert list(Progress("reading", terminal).over(range(1000))) == list(range(1000))
        assert terminal.getvalue() == ""

    def test_console_gives_none_to_pipes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only a terminal that is not dumb gets a line, and none under --quiet."""

        def lines(stream: io.StringIO, term: str, *, quiet: bool) -> bool:
            monkeypatch.setattr(sys, "stderr", stream)
            monkeypatch.setenv("TERM", term)
            return Console(quiet=quiet).progress("reading").live

        assert lines(Terminal(), "xterm", quiet=False)
        assert not lines(Terminal(), "dumb", quiet=False)
        assert not lines(Terminal(), "xterm", quiet=True)
        assert not lines(io.StringIO(), "xterm", quiet=False)

    def test_quiet_hides_notes_and_keeps_warnings(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Warnings are always said."""
        for quiet in (True, False):
            Console(quiet=quiet).note("n")
            Console(quiet=quiet).warn("w")
        assert capsys.readouterr().err == "kvm-replay: warning: w\nkvm-replay: n\nkvm-replay: warning: w\n"
