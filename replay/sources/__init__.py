"""Read traces made by other tools, and recordings, as one kind of stream.

`open_stream` takes any input that this tool reads: it recognises each file by its content and gives the stream of the one
importer, or reader, that takes such files together.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from replay.errors import UsageError

if TYPE_CHECKING:
    from replay.sources.files import Input
    from replay.sources.meter import Meter
    from replay.stream import Stream

Factory = Callable[[dict[str, list["Input"]]], "Stream"]
"""Open the inputs of one run, given by format."""


def _recording(inputs: dict[str, list["Input"]]) -> "Stream":
    from replay.recording import open_recording

    (source,) = (source for sources in inputs.values() for source in sources)
    return open_recording(source.open() if source.compression or source.is_stdin else source.path)


def _strace(inputs: dict[str, list["Input"]]) -> "Stream":
    from replay.sources.strace_import import StraceImport

    return StraceImport(inputs["strace"])


def _tracefs(inputs: dict[str, list["Input"]]) -> "Stream":
    from replay.sources.tracefs import TracefsImport
    from replay.sources.tracefs_lexer import blocks_of

    (source,) = inputs["tracefs"]
    return TracefsImport(blocks_of(source), name=source.name)


def _run(inputs: dict[str, list["Input"]]) -> "Stream":
    """Open the strace of a run and one of its traces, or several traces of it: the one that says most first."""
    from replay.sources.dialect_table import DIALECTS
    from replay.sources.merge import MergedImport
    from replay.sources.merge_words import WordMerge
    from replay.sources.witness import WitnessedStream

    names = [name for name in TRACES if name in inputs]
    traces = [(inputs[name][0], DIALECTS.get(name)) for name in names]
    (main, dialect), others = traces[0], traces[1:]
    if "strace" not in inputs:
        stream = FACTORIES[names[0],]({names[0]: inputs[names[0]]})
    elif dialect is None:
        stream = MergedImport(inputs["strace"], main)
    else:
        stream = WordMerge(inputs["strace"], main, dialect)
    return WitnessedStream(stream, traces[0], others) if others else stream


def _words(inputs: dict[str, list["Input"]]) -> "Stream":
    from replay.sources.dialect_table import DIALECTS
    from replay.sources.files import chunks
    from replay.sources.word_walk import WordImport

    ((name, (source,)),) = inputs.items()
    return WordImport(chunks(source), DIALECTS[name], name=source.name)


def _syzkaller(inputs: dict[str, list["Input"]]) -> "Stream":
    from replay.sources.files import lines_of
    from replay.sources.syzkaller import SyzImport

    (source,) = inputs["syzkaller"]
    return SyzImport(lines_of(source), name=source.name)


def _vmalloc(inputs: dict[str, list["Input"]]) -> "Stream":
    from replay.sources.files import lines_of
    from replay.sources.vmalloc_stacks import VmallocImport

    (source,) = inputs["vmalloc stacks"]
    return VmallocImport(lines_of(source), name=source.name)


def _lab(inputs: dict[str, list["Input"]]) -> "Stream":
    from replay.sources.lab import open_lab

    (source,) = inputs["lab"]
    return open_lab(source.path)


WORDS: Final = ("bpftrace", "bpftrace json", "perf script", "trace-cmd report", "CTF text", "perf trace")
"""Formats with role words; see `replay.sources.dialect_table`."""

TRACES: Final = (*WORDS[:-1], "tracefs", WORDS[-1])
"""Formats of kernel-side traces, the one that says most first: of several of one run, the first one's pages are taken."""

FACTORIES: Final[dict[tuple[str, ...], Factory]] = {
    ("kvmr",): _recording,
    ("jsonl",): _recording,
    ("golden",): _recording,
    ("strace",): _strace,
    ("tracefs",): _tracefs,
    ("lab",): _lab,
    ("syzkaller",): _syzkaller,
    ("vmalloc stacks",): _vmalloc,
    **{(name,): _words for name in WORDS},
}
"""Formats that are opened alone, and by whom; those of TRACES go together with strace and each other, see `_run`."""

SNAPSHOTS: Final = "vmallocinfo"
"""Format of what goes beside any traces of a run, and says nothing alone."""

SEVERAL: Final = frozenset({"strace"})
"""Formats of which one run may have several files; of the others it has one."""

LONG_HEAD_BYTES: Final = 1 << 22
"""How much of an input is looked at when its first HEAD_BYTES do not tell what it is."""


def open_stream(paths: Sequence[str], *, kvmgt: bool = False, meter: "Meter | None" = None, jobs: int = 1) -> "Stream":
    """Return the stream of one recording, or of the traces of one run; "-" is standard input.

    Several paths are one run: the files of one strace -ff, a strace and traces of the kernel's events, or several of those. A
    folder stands for the files in it. kvmgt: VFIO devices that are opened are vGPUs of KVMGT, see `replay.sources.vgpu`. meter:
    is told of the inputs. jobs: processes that may read an input, where that is worth it; close the stream then.
    Raises UsageError for inputs that do not go together, UnreadableError, UnknownFormatError, EmptyError, and what the importer
    raises.
    """
    from replay.sources.files import inputs_of

    inputs = inputs_of(paths)
    for source in inputs:
        source.jobs = jobs
    if len(inputs) > 1:  # a thread that made no call leaves an empty file of -ff
        inputs = [source for source in inputs if source.head(1)] or inputs
    if meter is not None:
        meter.inputs += inputs
    by_format = _by_format(inputs)
    snapshots = by_format.pop(SNAPSHOTS, []) if len(by_format) > 1 else []
    factory = FACTORIES.get(tuple(sorted(by_format)))
    if factory is None and by_format.keys() <= {"strace", *TRACES}:
        factory = _run
    if factory is None or any(len(same) > 1 for name, same in by_format.items() if name not in SEVERAL):
        found = ", ".join(f"{name}: {' '.join(source.label for source in same[:4])}" for name, same in sorted(by_format.items()))
        advice = "give one recording, the files of one strace -ff, or strace and traces by other tools of the same run"
        raise UsageError(f"inputs that do not go together ({found})", advice=advice)
    stream = factory(by_format)
    if snapshots:
        from replay.sources.snapshots import ObservedStream

        stream = ObservedStream(stream, snapshots)
    if kvmgt:
        _assume_kvmgt(stream)
    return stream


def _assume_kvmgt(stream: "Stream") -> None:
    assume = getattr(stream, "assume_kvmgt", None)
    if assume is None:
        raise UsageError("no strace among the inputs, and only strace shows VFIO devices", expected="strace text with kvmgt")
    assume()


def _by_format(inputs: Sequence["Input"]) -> dict[str, list["Input"]]:
    found: dict[str, list[Input]] = {}
    for source in inputs:
        found.setdefault(_format(source), []).append(source)
    return found


def _format(source: "Input") -> str:
    """Return the format of an input; when its first lines do not tell, by more of them."""
    from replay.recording.blocks import SIGNATURE

    head = source.head()
    if head.startswith(SIGNATURE):
        return "kvmr"
    from replay.errors import UnknownFormatError
    from replay.sources.detect import detect  # the importers' lexers are read for it
    from replay.sources.files import HEAD_BYTES

    try:
        return detect(head, name=source.label)
    except UnknownFormatError:
        if len(head) < HEAD_BYTES:
            raise
        return detect(source.head(LONG_HEAD_BYTES), name=source.label)
