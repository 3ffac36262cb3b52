"""Name every way in which input can be wrong: one tree, stable codes, messages that say what to do.

A message has five parts, in this order: where (file, line, block or event number), what was found, what was expected, what
it means, what to do. Programmer errors are assertions and never come from here.
"""

from typing import ClassVar


class KvmReplayError(Exception):
    """Base of everything that this tool raises for bad input; `code` is stable across releases.

    title: what is wrong, in two or three words; remedy: what a reader can do, for the catalogue in docs/errors.md.
    where: file and position ("boot.kvmr, block 3 at byte 9120"), "" when there is none.
    found / expected: the two sides of the complaint. advice: the next step for the reader of the message.
    """

    code: ClassVar[str] = "KVR000"
    title: ClassVar[str] = "trouble"
    remedy: ClassVar[str] = "Read the rest of the message; it names the file and what the system said."

    def __init__(self, found: str, *, where: str = "", expected: str = "", advice: str = "") -> None:
        self.where, self.found, self.expected, self.advice = where, found, expected, advice
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        text = f"{self.where}: {self.found}" if self.where else self.found
        if self.expected:
            text += f"; expected {self.expected}"
        if self.advice:
            text += f". {self.advice[:1].upper()}{self.advice[1:]}"
        return text

    def at(self, where: str) -> "KvmReplayError":
        """Return the same complaint with a place put before its own, for callers that know the file."""
        joined = f"{where}, {self.where}" if self.where else where
        return type(self)(self.found, where=joined, expected=self.expected, advice=self.advice)


class UsageError(KvmReplayError):
    """A command line or an API argument that cannot be meant."""

    code = "KVR001"
    title = "bad usage"
    remedy = "Compare the command line with `kvm-replay VERB --help`."


class UnreadableError(KvmReplayError):
    """A file that cannot be opened or read: missing, a directory, no permission, an I/O error."""

    code = "KVR002"
    title = "cannot read"
    remedy = "Check the name, the permissions, and that it is a file and not a folder; `-` reads standard input."


class UnknownFormatError(KvmReplayError):
    """Content that is none of the formats this tool knows."""

    code = "KVR003"
    title = "unknown format"
    remedy = "Give a recording (.kvmr, .jsonl) or a trace of docs/formats.md; `kvm-replay info` says what a file is taken for."


class UnwritableError(KvmReplayError):
    """A file that cannot be written: exists, no space, no permission."""

    code = "KVR004"
    title = "cannot write"
    remedy = "Choose another name, free space, or give `--force` to replace a recording."


class RecordingError(KvmReplayError):
    """Base of all that can be wrong with a recording (.kvmr or .jsonl)."""

    code = "KVR100"
    title = "bad recording"
    remedy = "Look up the more precise code that the message carries."


class DamagedError(RecordingError):
    """Bytes of a recording that are not what its writer wrote: a checksum, chain or count does not fit."""

    code = "KVR101"
    title = "damaged recording"
    remedy = (
        "Copy the file again from where it was made, or import its traces again; the events before the damage can be trusted."
    )


class TornError(RecordingError):
    """A recording that stops before its END block; what is there is a true prefix."""

    code = "KVR102"
    title = "torn recording"
    remedy = "Go on with the prefix if it is enough (no verdict covers what is missing), or import the traces again."


class VersionError(RecordingError):
    """A recording of a newer major version, or with a block kind that must not be skipped."""

    code = "KVR103"
    title = "unknown version"
    remedy = "Use a newer kvm-replay, or export the recording with the version that made it."


class LimitError(RecordingError):
    """Something larger than the limits that keep memory and time bounded."""

    code = "KVR104"
    title = "over a limit"
    remedy = "Check that the file is what it says; a real recording stays far below the limits."


class EventError(RecordingError):
    """An event that does not fit its schema: unknown kind, missing field, wrong type, out of range."""

    code = "KVR105"
    title = "bad event"
    remedy = "Correct the event at the place that the message names; docs/events.md has the fields of each kind."


class HeaderError(RecordingError):
    """A header that is missing, repeated or does not fit its schema."""

    code = "KVR106"
    title = "bad header"
    remedy = "Give the recording exactly one header, first; docs/format.md has its fields."


class EmptyError(RecordingError):
    """A recording or trace with nothing to judge: zero events is never a pass."""

    code = "KVR107"
    title = "nothing to judge"
    remedy = (
        "Check how it was recorded: a trace without one KVM call usually means a missing `-f` or a filter that is too narrow."
    )


class GoldenError(RecordingError):
    """A golden file that is not written as one: first line, labels, questions, or no events where they are needed."""

    code = "KVR108"
    title = "bad golden file"
    remedy = "Look at the line that the message names; docs/goldens.md has the grammar, `kvm-replay golden update` writes one."


class SourceError(KvmReplayError):
    """Base of all that can be wrong with a trace made by another tool."""

    code = "KVR200"
    title = "bad trace"
    remedy = "Look up the more precise code that the message carries."


class TraceSyntaxError(SourceError):
    """A line that the tool which wrote the trace would not write."""

    code = "KVR201"
    title = "bad trace line"
    remedy = "Look at the line that the message names: it may be cut, merged with another program's output, or edited."


class TraceOptionError(SourceError):
    """A trace recorded with options that lose what a replay needs (strace -c, -P /dev/kvm, plugin text...)."""

    code = "KVR202"
    title = "trace lacks what a replay needs"
    remedy = "Record again with the options that README.md gives."


class PairingError(SourceError):
    """Two traces that are said to show one run and do not fit together."""

    code = "KVR203"
    title = "traces do not belong together"
    remedy = "Give traces of the same run, with the same clock (`strace -ttt` and the tracefs clock `tai`)."


class DecompressionError(SourceError):
    """A compressed file that does not decompress, or grows beyond every reasonable size."""

    code = "KVR204"
    title = "cannot decompress"
    remedy = "Decompress it by hand and give the plain file; a damaged archive must be copied again."


class ProfileError(KvmReplayError):
    """A profile or lane that is contradictory, incomplete or not known."""

    code = "KVR300"
    title = "bad profile"
    remedy = "Compare the name and the facts with `kvm-replay policies`."


class PolicyFileError(ProfileError):
    """A policy file of the user's that can not be read, names what there is not, or whose own code fails."""

    code = "KVR301"
    title = "bad policy file"
    remedy = "Look at the line of the file that the message names; docs/policy-files.md has what may stand there."


class InvariantError(KvmReplayError):
    """A state of the model that breaks an invariant of the kernel (--paranoid): a bug here, please report it."""

    code = "KVR400"
    title = "invariant broken"
    remedy = "Report it with the recording: it is a bug of kvm-replay."


class NoKernelError(KvmReplayError):
    """No kernel that can be asked: /dev/kvm is missing, closed to this user, or not the KVM that the model describes."""

    code = "KVR500"
    title = "no kernel to ask"
    remedy = "Run `kvm-replay live` on Linux on x86-64 as a user who may open /dev/kvm; recordings of other machines need no KVM."


class CaptureError(KvmReplayError):
    """A run that can not be recorded: no source is allowed here, or one was refused or ended before the run did."""

    code = "KVR501"
    title = "cannot record"
    remedy = "Install strace, or run as root with bpftrace; `kvm-replay record --print-script` gives what to run by hand."


class WorkerError(KvmReplayError):
    """A process that replays recordings died over one, or can not be had at all."""

    code = "KVR600"
    title = "worker lost"
    remedy = (
        "Replay that recording alone with `kvm-replay compare`; a process that is killed without a word often ran out of memory."
    )


def catalogue() -> list[type[KvmReplayError]]:
    """List every error class of the tree, sorted by code; codes are unique."""
    found: list[type[KvmReplayError]] = []
    queue: list[type[KvmReplayError]] = [KvmReplayError]
    while queue:
        cls = queue.pop()
        found.append(cls)
        queue.extend(cls.__subclasses__())
    return sorted(found, key=lambda cls: cls.code)
