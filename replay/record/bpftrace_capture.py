"""Record by bpftrace alone."""

import os
import signal
import time
from typing import Final

import attrs

from replay.errors import CaptureError
from replay.header import Tool
from replay.record.captures import SETTLE_SECONDS, Capture, Tick, tracer_loss
from replay.record.processes import sleeps
from replay.record.scripts import BPFTRACE_PROGRAM, bpftrace_program, quoted, stacks_can_be_had
from replay.stream import Stream

START_SECONDS: Final = 120
"""How long bpftrace may take to compile and attach: one to three seconds, on a machine that is busy thirty times as long."""
IDLE_LOOKS: Final = 4
"""How often in a row, 50 ms apart, bpftrace has to wait for something: then its buffers are empty."""
DRAIN_SECONDS: Final = 30
"""How long after the end of the command bpftrace may still print; a process that is only watched goes on making lines."""
DETACH_SECONDS: Final = 60
"""How long bpftrace may take to end when it is asked to: each probe waits for every CPU."""
UNPRINTED: Final = "what bpftrace had not yet printed when the recording was ended"
STACKS_BUFFER_PAGES: Final = 2048
"""Pages of each CPU's buffer (8 MiB) with stacks: a thread that does only memslot calls fills bpftrace's usual 64 in ms."""


@attrs.define
class BpftraceCapture(Capture):
    """bpftrace alone: one program, filtered to the command and what it starts."""

    tracer: int = 0
    sees_notifiers: bool = False
    sees_areas: bool = False
    _asked_at: float | None = None
    _idle: int = 0
    _undrained: bool = False

    TEXT = "bpftrace.txt"
    ERRORS = "bpftrace.err"

    def prepare(self) -> None:
        """Start bpftrace and wait until its probes are on; without those on KVM's functions when they are refused."""
        self.clock = "boottime"
        if self.job.pid is None:
            self.hold_command()
        self.sees_areas = self.job.stacks and stacks_can_be_had()
        probes = self.machine.kernel_probes()
        try:
            self._start(probes)
        except CaptureError:
            if not probes:
                raise
            self._start("")

    def _start(self, probes: str) -> None:
        (self.job.folder / BPFTRACE_PROGRAM).write_text(bpftrace_program(stacks=self.sees_areas) + probes)
        (self.job.folder / self.TEXT).unlink(missing_ok=True)
        self.tracer = self.started(self._words(), self.TEXT, errors=self.ERRORS, environ=self._environment())
        until = time.monotonic() + START_SECONDS
        while b" BEGIN " not in (self.job.folder / self.TEXT).read_bytes()[:65536]:
            self.children.reap()
            if self.tracer in self.children.ended or time.monotonic() > until:
                raise CaptureError(self.said(self.ERRORS) or "bpftrace does not begin", where="bpftrace")
            time.sleep(0.02)
        self.sees_notifiers = "REGISTER" in probes

    def _environment(self) -> dict[str, str]:
        """Return the size of the buffers where stacks fill them faster than bpftrace empties them."""
        return {"BPFTRACE_PERF_RB_PAGES": str(STACKS_BUFFER_PAGES)} if self.sees_areas else {}

    def _words(self) -> list[str]:
        target = str(self.root if self.job.pid is None else self.job.pid)
        program = str(self.job.folder / BPFTRACE_PROGRAM)
        return ["bpftrace", "-B", "line", program, target, "0" if self.job.pid is None else "1"]

    def notes(self) -> list[str]:
        """Say whether KVM's functions are probed, and whether stacks are there when they were asked for."""
        probed = "KVM's functions are probed: notifiers and gfns of external users are seen"
        found = [probed if self.sees_notifiers else "KVM's functions can not be probed here: notifiers are not seen"]
        if self.job.stacks and not self.sees_areas:
            found.append("no stacks: this kernel has no tracepoint of vmalloc areas (Linux 6.2)")
        return found

    def launch(self) -> None:
        """Let the command run."""
        self.release()

    def tools(self) -> tuple[Tool, ...]:
        """Return bpftrace."""
        command = quoted(["bpftrace", "-B", "line", BPFTRACE_PROGRAM, "PID"])
        return (Tool(name="bpftrace", version=self.machine.ability("bpftrace").version[:64], command=command),)

    def texts(self) -> tuple[tuple[str, str], ...]:
        """Return bpftrace's."""
        return ((self.TEXT, "bpftrace"),)

    def stream(self, tick: Tick) -> Stream:
        """Return what bpftrace prints."""
        from replay.sources.bpftrace_lines import BPFTRACE
        from replay.sources.word_walk import WordImport

        return WordImport(self.tail(self.TEXT, self.tracer, tick), BPFTRACE, name=self.TEXT)

    def tracers(self) -> dict[int, str]:
        """Return bpftrace."""
        return {self.tracer: "bpftrace"}

    def cut(self) -> list[str]:
        """Notice a bpftrace that did not get to print all: killed, or busy for too long after the end of the command."""
        status = self.children.ended.get(self.tracer, 0)
        killed = [tracer_loss("bpftrace", status)] if os.WIFSIGNALED(status) else []
        return killed + [UNPRINTED] * self._undrained

    def stop(self) -> None:
        """Interrupt bpftrace when it has printed what its buffers hold: from the signal on it throws away what it finds there.

        Source: bpftrace src/bpftrace.cpp perf_event_printer().
        """
        if self._asked_at is not None:
            if time.monotonic() - self._asked_at > DETACH_SECONDS:
                self.children.send(self.tracer, signal.SIGKILL)
            return
        self._idle = self._idle + 1 if sleeps(self.tracer) else 0
        drained = self._idle >= IDLE_LOOKS and self.over_for(SETTLE_SECONDS)
        if drained or self.over_for(SETTLE_SECONDS if self.job.pid else DRAIN_SECONDS):
            self._asked_at = time.monotonic()
            self._undrained = not drained and self.job.pid is None
            self.children.send(self.tracer, signal.SIGINT)
