"""Make up a recording: seeded, of any length, with the rates and mixes of real captures."""

import argparse
from typing import Final

from replay.cli.console import Console
from replay.cli.outputs import add_summary_format, check_output, opened_writer, refuse_two_results
from replay.cli.verb import SAME, TROUBLE, Verb
from replay.units import counted

PROFILE_NAMES: Final = ("qemu-boot", "migration", "hotplug", "gvisor", "nested", "shadow", "gvtg", "mixed")
"""As in replay.generate.profiles, which help must not load; a test holds the two together."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("profile", metavar="PROFILE", choices=PROFILE_NAMES, help=", ".join(PROFILE_NAMES))
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="NAME.kvmr, NAME.jsonl, or - for JSON Lines")
    parser.add_argument("--events", type=int, required=True, metavar="N", help="how many events, exactly")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="same seed, same bytes (default: 1)")
    parser.add_argument("--vms", type=int, default=0, metavar="N", help="VMs alive at once (default: the profile's)")
    parser.add_argument("--address-bits", type=int, default=39, metavar="N", help="address space of gVisor (default: 39)")
    parser.add_argument("--machine", metavar="NAME=VALUE,...", help="other facts of the machine: kernel_release=6.8,tdp=y")
    parser.add_argument("--compress", choices=("zlib", "none"), default="none", help="of a .kvmr (default: none)")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    add_summary_format(parser)


def _run(args: argparse.Namespace, console: Console) -> int:
    import attrs

    from replay.analyses.generate_report import GenerateReport
    from replay.cli.machine import parse_machine
    from replay.generate import GeneratedStream, Order, profile_named
    from replay.header import replace_machine
    from replay.report.json_text import document

    check_output(args.output, [], force=args.force)
    refuse_two_results(args)
    order = Order(
        profile=profile_named(args.profile), events=args.events, seed=args.seed, vms=args.vms, address_bits=args.address_bits
    )
    stream = GeneratedStream(order)
    header = replace_machine(stream.header, **parse_machine(args.machine)) if args.machine else stream.header
    if args.output.endswith(".kvmr"):
        header = attrs.evolve(header, compression=args.compress)
    with opened_writer(args.output, header, force=args.force) as writer:
        for item in console.progress("generating").over(stream.items(), total_events=args.events):
            writer.write(item)
        writer.finish(stream.trailer())
    if args.format == "text":
        counts = f"{counted(args.events, 'event')}, {stream.hot_events:,} of them hot, {counted(stream.vms, 'VM')}"
        console.note(f"{args.output}: {counts}")
        return SAME
    report = GenerateReport(
        output=args.output,
        profile=args.profile,
        seed=args.seed,
        command=stream.order.command(),
        events=args.events,
        hot_events=stream.hot_events,
        vms=stream.vms,
    )
    with console.result() as out:
        out.write(document("generate", report, one_line=args.format == "jsonl"))
    return SAME


GENERATE: Final = Verb(
    name="generate",
    summary="make up a recording of any length, after real captures",
    description="""\
Write a synthetic recording: exactly so many events of a workload profile, drawn from a seed, with the rates and mixes that
were measured in real captures (docs/generate.md has each number and its capture). The same profile, numbers and seed give the
same events on every machine. No kernel ran: it is for benchmarks, scale tests and trying things out, and its header says so.

qemu-boot: boots and resets. migration: dirty logging of all memslots on and off, and its log. hotplug: DIMMs. gvisor: an
address space mapped fault by fault. nested: shadow pages of nested guests. shadow: shadow pages without tdp. gvtg: vGPUs that
are opened, track pages and are closed. mixed: all of it on one host.""",
    inputs="none",
    statuses={SAME: "the recording is written", TROUBLE: "bad usage, or OUT can not be written"},
    examples=(
        "kvm-replay generate mixed -o mixed.kvmr --events 20000 --seed 7",
        "kvm-replay generate gvisor -o sandbox.jsonl --events 300 --address-bits 40 --machine kernel_release=6.8",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
