"""Choose the capture of a source."""

from replay.record.abilities import Machine
from replay.record.bpftrace_capture import BpftraceCapture
from replay.record.captures import Capture, Job
from replay.record.processes import Children
from replay.record.strace_capture import StraceCapture
from replay.record.tracefs_capture import TracefsCapture


def capture_of(name: str, job: Job, machine: Machine, children: Children) -> Capture:
    """Return the capture of a source of `abilities.SOURCES`."""
    if name == "bpftrace":
        return BpftraceCapture(job, machine, children)
    if name == "strace":
        return StraceCapture(job, machine, children)
    return TracefsCapture(job, machine, children, beside_strace=name == "strace+tracefs")
