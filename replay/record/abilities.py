"""Find out which sources this machine allows, by trying each; say what each can not see."""

import shutil
import subprocess
from collections.abc import Callable
from typing import Final

import attrs

from replay.record.kernel_probes import kernel_probes
from replay.record.processes import run_mortal
from replay.record.tracefs import EVENTS, mount_point

TRY_SECONDS: Final = 30
_MOUNT: Final = "tracefs is not mounted, or not readable: mount -t tracefs nodev /sys/kernel/tracing, as root"


@attrs.frozen
class Ability:
    """What one tool can do here; why: the reason when it can not."""

    name: str
    usable: bool
    why: str = ""
    version: str = ""
    seccomp: bool = False


@attrs.frozen
class Source:
    """One way to record: the tools that it takes, in words, and what it can not see."""

    name: str
    needs: tuple[str, ...]
    words: str
    blind: str


SOURCES: Final = (
    Source(
        "bpftrace",
        ("bpftrace",),
        "bpftrace: calls with their structs, shadow pages with their role words, one clock",
        "fds that travel through sockets, notifiers where KVM can not be probed; a printed event costs its thread 25 us",
    ),
    Source(
        "strace+tracefs",
        ("strace", "tracefs"),
        "strace beside a private tracefs instance: calls with their structs, shadow pages",
        "KVM_SET_USER_MEMORY_REGION2's struct, notifiers, and of role words all but level, direct and invalid",
    ),
    Source(
        "strace",
        ("strace",),
        "strace: calls with their structs and results",
        "shadow pages, KVM_SET_USER_MEMORY_REGION2's struct, notifiers",
    ),
    Source(
        "tracefs",
        ("tracefs",),
        "a private tracefs instance: calls, results, shadow pages, of every VM on the machine",
        "the structs of calls (no memslot's layout), lives of fds and processes, notifiers, most of role words",
    ),
)
"""Sources in the order in which they are tried: the one that sees most first."""

CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "auto": tuple(source.name for source in SOURCES),
    "bpftrace": ("bpftrace",),
    "tracefs": ("strace+tracefs", "tracefs"),
    "strace": ("strace",),
}
"""Argument of --with -> sources that it allows."""


def strace_ability() -> Ability:
    """Try strace on a program that does nothing; a container may forbid ptrace though strace is there."""
    if shutil.which("strace") is None:
        return Ability("strace", usable=False, why="strace is not installed")
    version = first_line(["strace", "--version"]).rpartition(" ")[2]
    refused = ""
    for seccomp in (True, False):
        words = ["strace", "-f", *(["--seccomp-bpf"] if seccomp else []), "-e", "trace=ioctl", "-o", "/dev/null", "true"]
        refused = trouble(words)
        if not refused:
            return Ability("strace", usable=True, version=version, seccomp=seccomp)
    return Ability("strace", usable=False, why=refused, version=version)


def bpftrace_ability() -> Ability:
    """Try bpftrace on a program that ends at once."""
    if shutil.which("bpftrace") is None:
        return Ability("bpftrace", usable=False, why="bpftrace is not installed")
    refused = trouble(["bpftrace", "-e", "BEGIN { exit(); }"])
    version = "" if refused else first_line(["bpftrace", "--version"]).rpartition(" ")[2]
    return Ability("bpftrace", usable=not refused, why=refused, version=version)


def tracefs_ability() -> Ability:
    """Look whether there is a tracefs with KVM's events in which an instance can be made."""
    root = mount_point()
    if root is None:
        return Ability("tracefs", usable=False, why=_MOUNT)
    missing = [event for event in EVENTS if not (root / "events" / event).is_dir()]
    why = f"this kernel has no event {missing[0]}" if missing else ""
    return Ability("tracefs", usable=not why, why=why)


PROBES: Final[dict[str, Callable[[], Ability]]] = {
    "bpftrace": bpftrace_ability,
    "strace": strace_ability,
    "tracefs": tracefs_ability,
}


def first_line(words: list[str]) -> str:
    """Return the first line that a program prints, "" for none."""
    try:
        done = run_mortal(words, TRY_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return ""
    return (done.stdout.decode(errors="replace").splitlines() or [""])[0]


def trouble(words: list[str]) -> str:
    """Run a program; return what it complained of when it failed, "" when it did not."""
    try:
        done = run_mortal(words, TRY_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    return (lines or [f"{words[0]} ends with status {done.returncode}"])[-1]


@attrs.define
class Machine:
    """The tools of this machine, each tried once, when it is first asked for."""

    probes: dict[str, Callable[[], Ability]] = attrs.field(factory=lambda: dict(PROBES))
    known: dict[str, Ability] = attrs.field(factory=dict)
    _kernel_probes: str | None = None

    def kernel_probes(self) -> str:
        """Return the part of bpftrace's program that probes KVM's functions, as far as that can be done here."""
        if self._kernel_probes is None:
            self._kernel_probes = kernel_probes()
        return self._kernel_probes

    def ability(self, tool: str) -> Ability:
        """Return what a tool can do."""
        if tool not in self.known:
            self.known[tool] = self.probes[tool]()
        return self.known[tool]

    def why_not(self, source: Source) -> str:
        """Return why a source can not be used, "" when it can."""
        return "; ".join(found.why for found in map(self.ability, source.needs) if not found.usable)
