"""Record a command, or a process that runs already, on this machine."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from replay.cli.console import Console, standard_output
from replay.cli.verb import SAME, TROUBLE, Verb
from replay.errors import UnwritableError, UsageError
from replay.units import counted

if TYPE_CHECKING:
    from replay.header import Header
    from replay.header import Machine as Facts
    from replay.record.abilities import Machine, Source
    from replay.record.captures import Capture
    from replay.record.session import Outcome

SPARE: Final = "record.kvmr"
FOLDER_SUFFIX: Final = ".traces"
PID_MAX: Final = 1 << 22


def _pid(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 8 else 0
    if not 0 < number <= PID_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no process number")
    return number


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("command", metavar="-- COMMAND", nargs="*", help="the command with its arguments, behind --")
    parser.add_argument("--pid", type=_pid, metavar="PID", help="record a process that runs already, until it ends or on SIGINT")
    parser.add_argument("-o", "--output", metavar="OUT", help=f"the recording: NAME.kvmr (default: {SPARE}, or a name like it)")
    parser.add_argument("--force", action="store_true", help="replace OUT, and what a killed recorder left beside it")
    parser.add_argument(
        "--with", dest="source", choices=("auto", "bpftrace", "tracefs", "strace"), default="auto", help="source (default: auto)"
    )
    parser.add_argument(
        "--stacks",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="with bpftrace, on Linux 6.2 and later: KVM's vmalloc areas with the stacks of who takes them, for check",
    )
    parser.add_argument("--keep-traces", action="store_true", help="keep the tools' texts in OUT.traces")
    parser.add_argument("--print-script", action="store_true", help="print what the source runs, for a machine without Python")
    parser.add_argument("--title", metavar="TEXT", help="one line about the recording (default: the command)")
    parser.add_argument("--machine", default="", metavar="NAME=VALUE,...", help="facts that stand above those found out")


def _run(args: argparse.Namespace, console: Console) -> int:
    from replay.record.abilities import Machine

    if args.print_script:
        return _print_script(args, Machine())
    _check_usage(args)
    output = _output(args)
    folder = Path(f"{output}{FOLDER_SUFFIX}")
    machine = Machine()
    sources = _usable(args.source, machine, console)
    _make_folder(folder, output, force=args.force)
    return _record(args, console, output, folder, machine, sources)


def _check_usage(args: argparse.Namespace) -> None:
    """Raise before anything is started when it can not be meant."""
    import os
    import shutil

    from replay.record.header import user_may_not_see

    if bool(args.command) == (args.pid is not None):
        raise UsageError("what is to be recorded?", expected="-- COMMAND or --pid PID", advice="put -- before the command")
    if args.command and shutil.which(args.command[0]) is None:
        raise UsageError(f"{args.command[0]} is no program here", expected="a command that can be run")
    if args.pid is not None and not Path(f"/proc/{args.pid}").is_dir():
        raise UsageError(f"there is no process {args.pid}", where="--pid")
    if args.pid == os.getpid():
        raise UsageError("the recorder can not record itself", where="--pid")
    if args.pid is not None and user_may_not_see(args.pid):
        raise UsageError(f"process {args.pid} is another user's", where="--pid", advice="record it as that user, or as root")


def _output(args: argparse.Namespace) -> str:
    from replay.cli.keeper import free_name

    name: str = args.output or str(free_name(SPARE))
    if not name.endswith(".kvmr"):
        raise UsageError(f"{name} does not end in .kvmr", expected="NAME.kvmr", advice="`kvm-replay import` turns it into .jsonl")
    if Path(name).exists() and not args.force:
        raise UnwritableError("exists already", where=name, advice="give another name, or --force to replace it")
    return name


def _make_folder(folder: Path, output: str, *, force: bool) -> None:
    import shutil

    part = Path(f"{output}.part")
    if force:
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists() or part.exists():
        advice = (
            f"a recorder was killed, or is at work: `kvm-replay import {folder} -o NAME` reads all it had; --force replaces it"
        )
        raise UnwritableError("exists already", where=str(folder if folder.exists() else part), advice=advice)
    try:
        folder.mkdir()
    except OSError as error:
        raise UnwritableError(error.strerror or str(error), where=str(folder)) from None


def _usable(choice: str, machine: "Machine", console: Console) -> "list[Source]":
    """Return the sources that this machine allows, the best first. Raises CaptureError when there is none."""
    from replay.errors import CaptureError
    from replay.record.abilities import CHOICES, SOURCES

    wanted = [source for source in SOURCES if source.name in CHOICES[choice]]
    refused = {source.name: machine.why_not(source) for source in wanted}
    found = [source for source in wanted if not refused[source.name]]
    if not found:
        sentences = [f"{name}: {why}" for name, why in refused.items()]
        raise CaptureError("; ".join(sentences), expected="strace, or root with bpftrace or tracefs")
    for source in wanted[: wanted.index(found[0])]:
        console.note(f"not used: {source.name}: {refused[source.name]}")
    return found


def _record(
    args: argparse.Namespace, console: Console, output: str, folder: Path, machine: "Machine", sources: "list[Source]"
) -> int:
    import shutil

    from replay.record.captures import Job
    from replay.record.choose import capture_of
    from replay.record.header import this_machine
    from replay.record.processes import Children
    from replay.record.session import prepared

    job = Job(folder, tuple(args.command), args.pid, stacks=args.stacks)
    children = Children()
    children.adopt_orphans()
    done = False
    try:
        facts = this_machine()  # makes a VM: before anything records it
        names = [source.name for source in sources]
        name, capture = prepared(names, lambda name: capture_of(name, job, machine, children), console.warn)
        _say_source(next(source for source in sources if source.name == name), capture, console)
        outcome = _write(args, console, output, capture, facts)
        done = True
    finally:
        keeps = args.keep_traces if done else any(path.stat().st_size for path in folder.glob("*.txt"))
        if not keeps:
            shutil.rmtree(folder, ignore_errors=True)
    _say_outcome(outcome, output, console)
    return outcome.status


def _write(args: argparse.Namespace, console: Console, output: str, capture: "Capture", facts: "Facts") -> "Outcome":
    from replay.record.session import Session
    from replay.recording import Writer

    children = capture.children
    try:
        with Writer(output, _header(args, capture, facts), overwrite=args.force) as writer:
            return Session(capture, children, writer, console.warn).run()
    finally:
        capture.close()
        children.kill_all()


def _header(args: argparse.Namespace, capture: "Capture", facts: "Facts") -> "Header":
    import attrs

    from replay.cli.machine import parse_machine
    from replay.header import SourceFile, replace_machine
    from replay.record.header import recording_header
    from replay.record.scripts import quoted

    job = capture.job
    words = ["kvm-replay", "record", "--with", args.source]
    own = quoted([*words, "--pid", str(job.pid)] if job.pid is not None else [*words, "--", *job.command])
    files = tuple(SourceFile(name=name, format=form) for name, form in capture.texts())
    header = recording_header(job, facts, capture.tools(), files, capture.clock, own)
    if args.title is not None:
        header = attrs.evolve(header, title=args.title[:256])
    return replace_machine(header, **parse_machine(args.machine)) if args.machine else header


def _say_source(source: "Source", capture: "Capture", console: Console) -> None:
    console.note(f"recording by {source.words}")
    console.note(f"it can not see: {source.blind}")
    for note in capture.notes():
        console.note(note)
    if capture.job.stacks and source.name != "bpftrace":
        console.warn(f"--stacks: {source.name} sees no allocations, only bpftrace does")


def _say_outcome(outcome: "Outcome", output: str, console: Console) -> None:
    for warning in outcome.warnings:
        console.warn(warning)
    totals = ", ".join(f"{outcome.trailer.total(severity):,} {severity}" for severity in ("lost", "unknown", "ignored"))
    console.note(f"{output}: {counted(outcome.events, 'event')}; {totals}; the command: {outcome.ended}")


def _print_script(args: argparse.Namespace, machine: "Machine") -> int:
    """Print what the source runs: bpftrace's program, or a shell program around strace and tracefs."""
    from replay.record.scripts import bpftrace_program, shell_script

    if args.source == "bpftrace" or (args.source == "auto" and machine.ability("bpftrace").usable):
        text = bpftrace_program(stacks=args.stacks) + machine.kernel_probes()
    else:
        strace = machine.ability("strace")
        text = shell_script(strace=True, tracefs=args.source != "strace", seccomp=strace.seccomp or not strace.usable)
    standard_output().write(text)
    return SAME


RECORD: Final = Verb(
    name="record",
    summary="record a command, or a running process, on this machine",
    description="""\
Run a command and record what it asks of KVM, by the best source that this machine allows: bpftrace, strace beside tracefs, or
strace, which needs no root. Says which one it takes and what that can not see. Blocks are written as the run goes on, so that a
recorder that is killed leaves OUT.part, readable and cut, and all text so far in OUT.traces. Nothing stays switched on: no
tracefs instance, no probe, no process. Recording goes on until the command and all that it started have ended; SIGTERM is handed
on to it. With --pid, until the process ends or SIGINT. docs/recording.md says what each source costs.""",
    inputs="a command behind --, or --pid PID",
    statuses={
        SAME: "the command's own: record ends as it does, 128 and the number for a signal",
        TROUBLE: "or bad usage, no source, or OUT can not be written",
    },
    examples=("kvm-replay record --print-script --with strace", "kvm-replay record --print-script --with bpftrace"),
    add_arguments=_add_arguments,
    run=_run,
)
