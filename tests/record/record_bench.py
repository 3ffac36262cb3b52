"""Run `kvm-replay record` as users do, with real tools or with small scripts that print captured text."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from replay.events import Event
from replay.header import Header, Trailer
from replay.recording import open_recording
from replay.runs import events_of

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = ROOT / "tests" / "data"
WAIT_SECONDS = 60

STRACE = """\
#!/bin/sh
[ "$1" = --version ] && { echo 'strace -- version 9.9'; exit 0; }
out=/dev/null
while [ $# -gt 0 ]; do
  case $1 in
    -o) out=$2; shift 2;;
    -e|-s|-p) shift 2;;
    --) shift; break;;
    -*) shift;;
    *) break;;
  esac
done
[ "$out" = /dev/null ] || cat "$FAKE_TEXT" >"$out"
"$@"
code=$?
[ "$out" = /dev/null ] || echo '100 1795341862.900000 +++ exited with 0 +++' >>"$out"
exit $code
"""

BPFTRACE = """\
#!/bin/sh
[ "$1" = --version ] && { echo 'bpftrace v9.9'; exit 0; }
[ "$1" = -e ] && exit 0
[ "$1" = -lv ] && exit 1
[ -n "${FAKE_REFUSAL-}" ] && { echo "$FAKE_REFUSAL" >&2; exit 1; }
trap 'exit 0' INT
echo 'Attaching 1 probe...'
echo '1000 1 1 bpftrace BEGIN gen=1'
cat "$FAKE_TEXT"
while :; do sleep 0.02; done
"""

REFUSED = "#!/bin/sh\necho 'ptrace(PTRACE_TRACEME): Operation not permitted' >&2\nexit 1\n"


@attrs.define
class Bench:
    """A folder with tools of our own in front of the machine's."""

    folder: Path
    tools: dict[str, str] = attrs.field(factory=dict)
    text: str = ""
    environ: dict[str, str] = attrs.field(factory=dict)
    ignores_sigint: bool = False
    _started: list["subprocess.Popen[str]"] = attrs.field(factory=list)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start the program; its standard error is in the file `errors`."""
        path = self.folder / "bin"
        path.mkdir(exist_ok=True)
        for name, script in self.tools.items():
            (path / name).write_text(script)
            (path / name).chmod(0o755)
        (self.folder / "fake.txt").write_text(self.text)
        before = f"{path}:" if self.tools else ""
        environ = {
            **os.environ,
            "PATH": before + os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "FAKE_TEXT": str(self.folder / "fake.txt"),
            **self.environ,
        }
        command = [sys.executable, "-m", "replay", "record", *words]
        if self.ignores_sigint:  # as a shell without job control starts what runs in the background
            command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]
        with (self.folder / "errors").open("w") as errors:
            process = subprocess.Popen(command, cwd=self.folder, env=environ, stderr=errors, text=True)
        self._started.append(process)
        return process

    def run(self, *words: str) -> int:
        """Run the program to its end and return its status."""
        return self.start(*words).wait(WAIT_SECONDS)

    @property
    def errors(self) -> str:
        """What it said on standard error."""
        return (self.folder / "errors").read_text()

    def recording(self, name: str = "out.kvmr") -> "Recording":
        """Read a recording."""
        return Recording.read(self.folder / name)

    def number_in(self, name: str) -> int:
        """Return the number that the command wrote into a file, when it has."""
        path = self.folder / name
        until(lambda: path.exists() and path.read_text().strip() != "")
        return int(path.read_text())

    def end(self) -> None:
        """Kill what a failed test left."""
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait(WAIT_SECONDS)


@attrs.frozen
class Recording:
    """What a recording holds; torn: it stops before its end."""

    header: Header
    events: list[Event]
    trailer: Trailer
    torn: bool

    @classmethod
    def read(cls, path: Path) -> "Recording":
        """Read a file to its end."""
        with open_recording(path) as reader:
            events = list(events_of(reader.items()))
            return cls(reader.header, events, reader.trailer(), reader.torn)

    @property
    def kinds(self) -> list[str]:
        """The kinds of its events."""
        return [event.KIND for event in self.events]


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited for something that did not come"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Say whether a process is there and not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def instances() -> Sequence[str]:
    """List our tracefs instances on this machine."""
    roots = [Path("/sys/kernel/tracing/instances"), Path("/sys/kernel/debug/tracing/instances")]
    return sorted(str(path) for root in roots if root.is_dir() for path in root.glob("kvm-replay-*"))
