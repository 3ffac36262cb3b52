"""Say what a recording holds."""

import argparse
from typing import Final

from replay.cli.console import Console
from replay.cli.inputs import open_inputs, say_warnings
from replay.cli.results import Shapes, write_shape
from replay.cli.verb import CANNOT_TELL, SAME, TROUBLE, Verb, add_format, add_inputs, add_output, told


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser)
    add_format(parser, "text", "json", "jsonl")
    add_output(parser)


def _run(args: argparse.Namespace, console: Console) -> int:
    from replay.analyses.info import InfoBuilder
    from replay.report.info_text import info_text

    stream = open_inputs(args.inputs, console)
    builder = InfoBuilder()
    with console.result(args.output, inputs=args.inputs) as out:
        for item in console.progress("reading").over(stream.items()):
            builder.add(item)
        info = builder.info(stream.header, stream.trailer())
        shapes = Shapes("info", info, lambda paint: info_text(info, paint))
        write_shape(args.format, shapes, out, console)
    say_warnings(stream, console)
    return told(certain=not info.cut_short)


INFO: Final = Verb(
    name="info",
    summary="say what a recording holds",
    description="""\
Say what a recording or trace holds: facts of the machine, events by kind, VMs, tasks, time, what its memslot calls did, how
many slots were live at once, write tracking, and everything that was lost or not understood. Judges nothing.""",
    inputs="RECORDING: a .kvmr or .jsonl recording, strace or tracefs text, or - ; several traces of one run are merged.",
    statuses={
        SAME: "the report is written; losses of the recorder are part of it",
        TROUBLE: "bad usage, or input that can not be read",
        CANNOT_TELL: "it is written, of what is there: the recording is torn, or was saved from a damaged one",
    },
    examples=("kvm-replay info boot.kvmr", "kvm-replay info --format json strace.txt ftrace.txt"),
    add_arguments=_add_arguments,
    run=_run,
)
