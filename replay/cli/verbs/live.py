"""Ask this machine's own kernel, and hold the model against each answer as it comes."""

import argparse
import shlex
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from replay.cli.console import Console
from replay.cli.numbers import whole
from replay.cli.outputs import check_file_output
from replay.cli.results import Shapes, write_shape
from replay.cli.verb import CANNOT_TELL, DIVERGENCE, SAME, TROUBLE, Verb, add_format
from replay.errors import NoKernelError, ProfileError
from replay.units import counted

if TYPE_CHECKING:
    from replay.analyses.live_report import LiveReport
    from replay.header import Header, Machine
    from replay.live.device import DevKvm

OPERATIONS_MAX: Final = 1_000_000
SEED_MAX: Final = (1 << 64) - 1
TURN_SECONDS_MAX: Final = 60
"""How long another run is waited for; then allocations are not compared."""
TURN_POLL_SECONDS: Final = 0.2


def _whole(least: int, most: int) -> Callable[[str], int]:
    return whole(f"a whole number from {least} to {most}", least, most)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=_whole(0, SEED_MAX), default=1, metavar="N", help="which operations (default: 1)")
    parser.add_argument(
        "--operations", type=_whole(1, OPERATIONS_MAX), default=1000, metavar="N", help="how many (default: 1000)"
    )
    parser.add_argument("--seconds", type=_whole(1, 1 << 20), metavar="N", help="start no more operations after this time")
    parser.add_argument("--vms", type=_whole(1, 8), default=2, metavar="N", help="most VMs at a time (default: 2)")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first mismatch")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="keep the recording as NAME.kvmr or NAME.jsonl, also when all agree"
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--machine", default="", metavar="NAME=VALUE,...", help="facts that stand above those found out")
    parser.add_argument("--policy", metavar="POLICY", help="policy of this kernel, when its release does not tell it")
    add_format(parser, "text", "json", "jsonl")


def _run(args: argparse.Namespace, console: Console) -> int:
    from replay.report.live_text import live_text

    if args.output is not None:
        check_file_output(args.output, [], force=args.force)
    report = _ask(args, console)
    with console.result() as out:
        shapes = Shapes("live", report, lambda paint: live_text(report, paint))
        write_shape(args.format, shapes, out, console)
    return report.status()


def _ask(args: argparse.Namespace, console: Console) -> "LiveReport":
    from replay.analyses.check import Checker
    from replay.analyses.live_report import LiveReport
    from replay.cli.live_session import Session
    from replay.header import Trailer
    from replay.kvm.release import Release
    from replay.live.device import DevKvm, this_release
    from replay.live.probe import probe_device, read_text

    try:
        release = this_release()
        device = DevKvm()
        console.at_end.callback(device.shut)
        _take_turn(device, console)
        machine, origins = probe_device(device, release, read_text)
        header = _header(args, machine)
        checker = Checker(header, policy=args.policy)
        if not Release.parse(header.machine.kernel_release or release).at_least(5, 18):
            device.not_watched = "before 5.18 (mm/util.c kvcalloc()) small arrays are not in /proc/vmallocinfo"
    except (NoKernelError, ProfileError) as error:
        if isinstance(error, ProfileError) and args.policy is not None:
            raise
        console.warn(f"cannot tell: {error.code} {error.title}: {error}")
        return LiveReport(seed=args.seed, operations=0, trouble=str(error), repeat=_repeat(args))
    for fact in checker.report(Trailer()).profile:
        if fact.assumed:
            console.warn(f"{fact.name} could not be found out, assumed {fact.value}; --machine gives it")
    return Session(args, console, device, header, checker).report(origins, _repeat(args))


def _take_turn(device: "DevKvm", console: Console) -> None:
    """Wait until no other run of this program is on: each would see the other's allocations."""
    if device.try_lock():
        return
    console.note(f"another kvm-replay live holds /dev/kvm; waiting for it, at most {TURN_SECONDS_MAX} seconds")
    began = time.monotonic()
    while not device.try_lock():
        if time.monotonic() - began > TURN_SECONDS_MAX:
            device.not_watched = "another kvm-replay live runs, and its VMs would show"
            return
        time.sleep(TURN_POLL_SECONDS)


def _header(args: argparse.Namespace, machine: "Machine") -> "Header":
    from replay.cli.machine import parse_machine
    from replay.header import Header, Tool, replace_machine
    from replay.version import VERSION

    suffix = args.output or ".kvmr"
    header = Header(
        title=f"live: seed {args.seed}, {counted(args.operations, 'operation')}",
        machine=machine,
        tools=(Tool(name="kvm-replay live", version=VERSION, command=_repeat(args)[:4096]),),
        provenance="random but seeded operations on the recording machine's own /dev/kvm; no vCPU ever ran",
        compression="zlib" if suffix.endswith(".kvmr") else "none",
    )
    return replace_machine(header, **parse_machine(args.machine)) if args.machine else header


def _repeat(args: argparse.Namespace) -> str:
    words = ["kvm-replay", "live", "--seed", str(args.seed), "--operations", str(args.operations), "--vms", str(args.vms)]
    words += ["--keep-going"] if args.keep_going else []
    words += ["--machine", args.machine] if args.machine else []
    words += ["--policy", args.policy] if args.policy else []
    return shlex.join(words)


LIVE: Final = Verb(
    name="live",
    summary="hold the model against what this machine's kernel does now",
    description="""\
Perform a seeded stream of memslot operations on this machine's /dev/kvm (create, delete, move, flags, wrong arguments of every
kind, dirty log, guest_memfd, calls from a forked child, closing) and compare each result with the model as it comes; with
/proc/vmallocinfo also each allocation, by function. Ordinary calls only: no guest runs, nothing races, at most 64 MiB of kernel
memory. VMs die with the process. The run is recorded; without --output the recording is kept when something does not agree.""",
    inputs="""\
none: it asks the machine that it runs on. It needs Linux on x86-64, a release that `kvm-replay policies` lists, and permission
to open /dev/kvm; allocations are compared where /proc/vmallocinfo can be read (usually by root only). What it can not find out
is assumed and said.""",
    statuses={
        SAME: "model and kernel agree in every comparison",
        DIVERGENCE: "the kernel contradicts the model; the report has the command that replays it",
        TROUBLE: "bad usage, or the recording can not be written",
        CANNOT_TELL: "no kernel that can be asked, or one that the model does not describe",
    },
    examples=(
        "kvm-replay live --seed 7 --operations 200",
        "kvm-replay live --operations 100 --output run.kvmr --format json",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
