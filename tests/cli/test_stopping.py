"""Promises of SIGTERM and SIGHUP: the program ends with one line, and nothing half written stays behind without a word."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from cli_samples import ROOT, boot, kvm_replay

from replay.cli.stopping import StoppedError, stoppable
from replay.cli.verb import STATUS_MEANINGS
from replay.recording import open_recording
from replay.runs import events_of

# A recording that gives two events and then waits for ever, in place of the inputs of a verb.
PROGRAM = """
import sys, time
sys.path[:0] = {path!r}
from cli_samples import HEADER, boot
from replay.cli import main
from replay.cli import inputs
from replay.cli.verbs import import_
from replay.header import Trailer
class Waiting:
    header = HEADER
    def items(self):
        yield from boot()[:2]
        print("ready", file=sys.stderr, flush=True)
        time.sleep(60)
    def trailer(self): return Trailer()
    def warnings(self): return []
def waiting(names, console, **options):
    return Waiting()
inputs.open_inputs = import_.open_inputs = waiting
from replay.cli.verbs import dump
dump.open_inputs = waiting
{more}
sys.exit(main(sys.argv[1:]))
"""
KEEPING = """
from replay.cli.keeper import opened_keeper
def keep(args, console):
    with opened_keeper("kept.kvmr", "spare", HEADER, force=False) as keeper:
        for item in Waiting().items():
            keeper.write(item)
from replay.cli.verb import Verb
from replay.cli import entry
main = lambda argv: entry.main(argv, [Verb("keep", "", "", "", {}, (), lambda parser: None, keep)])
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def stopped(arguments: Sequence[str], number: int, more: str = "", prefix: Sequence[str] = ()) -> tuple[int, str]:
    """Run a verb that waits, send it a signal, and return its status and what it said after it was ready."""
    path = [str(ROOT), str(ROOT / "tests" / "cli")]
    command = [*prefix, sys.executable, "-c", PROGRAM.format(path=path, more=more), *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        process.send_signal(number)
        return process.wait(60), process.stderr.read()


def names() -> list[str]:
    """Return the names in the current folder."""
    return sorted(path.name for path in Path.cwd().iterdir())


def stop_twice(cleaned: list[bool]) -> None:
    """Send the signal, and again while cleaning up."""
    with stoppable():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append(True)


class TestStopped:
    """A signal unwinds the verb."""

    @pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
    @pytest.mark.parametrize("output", ["out.kvmr", "out.jsonl"])
    def test_import(self, name: str, output: str) -> None:
        """An import leaves neither a recording nor a part of one; the status is that of the signal."""
        number = getattr(signal, name)
        assert stopped(["import", "x", "-o", output], number) == (128 + number, "kvm-replay: terminated\n")
        assert names() == []
        assert name in STATUS_MEANINGS[128 + number]

    def test_result(self) -> None:
        """Nor does a verb whose result goes to a file."""
        assert stopped(["dump", "x", "--output", "out.txt"], signal.SIGTERM) == (143, "kvm-replay: terminated\n")
        assert names() == []

    def test_kept(self) -> None:
        """What a recorder kept stays, and it says where, and how to complete it; that is true."""
        status, said = stopped(["keep"], signal.SIGTERM, more=KEEPING)
        advice = (
            "kvm-replay: kept.kvmr.part has what was recorded; `kvm-replay recover kept.kvmr.part -o kept.kvmr` completes it\n"
        )
        assert (status, said) == (143, advice + "kvm-replay: terminated\n")
        assert kvm_replay(*said.split("`")[1].split()[1:], cwd=Path.cwd()).returncode == 3
        assert list(events_of(open_recording("kept.kvmr").items())) == boot()[:2]

    def test_killed(self) -> None:
        """SIGKILL can not be met: NAME.part stays, without a word, and can be recovered as far as its blocks go."""
        assert stopped(["import", "x", "-o", "out.kvmr"], signal.SIGKILL) == (-signal.SIGKILL, "")
        assert names() == ["out.kvmr.part"]
        assert kvm_replay("recover", "out.kvmr.part", "-o", "out.kvmr", cwd=Path.cwd()).returncode == 3
        assert list(open_recording("out.kvmr").items()) == []

    def test_ignored(self) -> None:
        """A signal that was ignored at the start, as nohup does, stays ignored."""
        status, said = stopped(["import", "x", "-o", "out.kvmr"], signal.SIGINT, prefix=["nohup"])
        assert (status, said) == (130, "kvm-replay: interrupted\n")
        previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with stoppable():
                assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
                os.kill(os.getpid(), signal.SIGHUP)
        finally:
            signal.signal(signal.SIGHUP, previous)

    def test_restored(self) -> None:
        """Outside, signals mean what they meant before; inside, the second one does not stop the cleaning up."""
        before = signal.getsignal(signal.SIGTERM)
        cleaned: list[bool] = []
        with pytest.raises(StoppedError):
            stop_twice(cleaned)
        assert cleaned == [True]
        assert signal.getsignal(signal.SIGTERM) == before
