"""Generate what the sources run: strace's command line, bpftrace's program, and both as text for a machine without Python."""

import shlex
from collections.abc import Sequence
from importlib.resources import files
from typing import Final

from replay.record.tracefs import BUFFER_KIB, EVENTS, mount_point

STRACE_CALLS: Final = (
    "ioctl,openat,close,?close_range,dup,?dup2,dup3,fcntl,execve,?execveat,clone,?clone3,?fork,?vfork,unshare,exit,exit_group,"
    "sendmsg,recvmsg,?pidfd_getfd"
)
"""System calls that can make or end a task, an fd or a VM; `?`: not on every machine, or not known to every strace."""
BPFTRACE_PROGRAM: Final = "kvmtrace.bt"
STACKS_PROGRAM: Final = "stacks.bt"
STACKS_EVENT: Final = "vmalloc/alloc_vmap_area"
"""Tracepoint of Linux 6.2 and later. Source: include/trace/events/vmalloc.h."""


def strace_words(output: str, *, program: str = "strace", seccomp: bool, pid: int | None = None) -> list[str]:
    """Return strace's command line up to the command; seccomp: calls that are not wanted do not stop the task.

    >>> strace_words("s.txt", seccomp=True)[:4]
    ['strace', '-f', '--seccomp-bpf', '-ttt']
    """
    filtered = ["--seccomp-bpf"] if seccomp and pid is None else []
    attach = [] if pid is None else ["-p", str(pid)]
    return [program, "-f", *filtered, "-ttt", "-y", "-s", "64", "-o", output, "-e", f"trace={STRACE_CALLS}", *attach]


def bpftrace_program(*, stacks: bool = False) -> str:
    """Return bpftrace's program: every VM of the machine, or the process PID that is its first argument and what it starts.

    stacks: with the vmalloc areas that KVM takes and gives back, and the stacks of who does it.
    """
    names = (BPFTRACE_PROGRAM, *([STACKS_PROGRAM] if stacks else []))
    return "".join((files("replay") / "recorders" / name).read_text() for name in names)


def stacks_can_be_had() -> bool:
    """Say whether this kernel has the tracepoint of vmalloc areas."""
    root = mount_point()
    return root is not None and (root / "events" / STACKS_EVENT).is_dir()


_HEAD: Final = """\
#!/bin/sh
# Records what a command asks of KVM: system calls by strace{and_pages}.
# Usage: sh SCRIPT FOLDER COMMAND [ARGUMENT...]      then, on a machine with kvm-replay: kvm-replay import FOLDER -o OUT.kvmr
set -u
[ $# -ge 2 ] || {{ echo "usage: $0 FOLDER COMMAND [ARGUMENT...]" >&2; exit 2; }}
folder=$1; shift
mkdir -p "$folder" || exit 2
"""

_TRACEFS: Final = """\
root=/sys/kernel/tracing
[ -d $root/instances ] || root=/sys/kernel/debug/tracing
[ -d $root/instances ] || {{ echo "$0: mount tracefs first: mount -t tracefs nodev /sys/kernel/tracing" >&2; exit 2; }}
instance=$root/instances/kvm-replay-sh-$$
mkdir "$instance" || exit 2
reader=
finish() {{
  trap - EXIT INT TERM HUP
  echo 0 >"$instance/tracing_on"
  sleep 1
  [ -z "$reader" ] || kill "$reader" 2>/dev/null
  wait
  rmdir "$instance"
}}
trap finish EXIT
trap 'exit 129' HUP; trap 'exit 130' INT; trap 'exit 143' TERM
echo tai >"$instance/trace_clock" || exit 2
echo {buffer} >"$instance/buffer_size_kb"
echo 1 >"$instance/options/record-tgid"
for event in {events}; do
  echo 1 >"$instance/events/$event/enable" || exit 2
done
cat "$instance/trace_pipe" >"$folder/ftrace.txt" &
reader=$!
"""


def shell_script(*, strace: bool, tracefs: bool, seccomp: bool) -> str:
    """Return a POSIX shell program that records a command by strace, tracefs or both, and leaves nothing switched on."""
    pages = " and shadow pages by a tracefs instance of its own (root)" if tracefs else ""
    text = _HEAD.format(and_pages=pages)
    if not strace:
        text = text.replace("system calls by strace and shadow pages", "system calls and shadow pages")
    if tracefs:
        text += _TRACEFS.format(buffer=BUFFER_KIB, events=" ".join(EVENTS))
    command = quoted([*strace_words("FOLDER", seccomp=seccomp), "--"]) if strace else ""
    return text + f"{command} ".replace(" FOLDER ", ' "$folder/strace.txt" ').lstrip() + '"$@"\n'


def quoted(words: Sequence[str]) -> str:
    """Return words as a shell reads them."""
    return shlex.join(words)
