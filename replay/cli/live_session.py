"""Drive one live run: each operation into the recording and past the checker, until all are done or something does not agree."""

import argparse
import contextlib
import shlex
import time

from replay.analyses.check import Checker
from replay.analyses.live_report import LiveReport, Origin
from replay.cli.console import Console
from replay.cli.keeper import Keeper, opened_keeper
from replay.events import Event, Observe
from replay.header import Counter, Header, Trailer
from replay.live.device import Device, others_use_kvm
from replay.live.run import LiveRun
from replay.units import counted, fact_word

DISTURBED = "observation of allocations left out: another process uses KVM"


class Session:
    """One run with its recording and its checker."""

    def __init__(self, args: argparse.Namespace, console: Console, device: Device, header: Header, checker: Checker) -> None:
        self._args = args
        self._console = console
        self._checker = checker
        self._header = header
        self._run = LiveRun(device, header, seed=args.seed, operations=args.operations, vms_max=args.vms)
        self._areas = device.areas_sentence()
        self._areas_compared = device.areas() is not None
        self._others = others_use_kvm()
        self._disturbed = 0
        self._stopped = ""

    def report(self, origins: dict[str, str], repeat: str) -> LiveReport:
        """Run and return the report. origins: where each fact of the machine is from. repeat: command that does it again."""
        args, header = self._args, self._header
        with opened_keeper(args.output, f"live-{args.seed}.kvmr", header, force=args.force) as keeper:
            self._loop(keeper)
            kept = keeper.finish(self._trailer(), keep=bool(self._checker.mismatch_count))
        if self._disturbed:
            self._console.warn(f"{counted(self._disturbed, 'time')}: {DISTURBED}")
        policy = ["--policy", args.policy] if args.policy else []
        return LiveReport(
            seed=args.seed,
            operations=self._run.operations,
            stopped=self._stopped,
            facts=self._facts(origins),
            areas_compared=self._areas_compared,
            areas=self._areas,
            disturbed=self._disturbed,
            recording=kept,
            replay=shlex.join(["kvm-replay", "check", *policy, kept]) if kept else "",
            repeat=repeat,
            check=self._checker.report(self._run.trailer()),
        )

    def _facts(self, origins: dict[str, str]) -> tuple[Origin, ...]:
        given = {word.partition("=")[0].strip() for word in self._args.machine.split(",")}
        machine = self._header.machine
        return tuple(
            Origin(name=name, value=fact_word(getattr(machine, name)), origin="--machine" if name in given else origin)
            for name, origin in origins.items()
        )

    def _trailer(self) -> Trailer:
        counter = Counter(kind=DISTURBED, count=self._disturbed, severity="ignored")
        return Trailer(counters=(counter,) if self._disturbed else ())

    def _loop(self, keeper: Keeper) -> None:
        began, seconds = time.monotonic(), self._args.seconds
        self._run.stop = lambda: seconds is not None and time.monotonic() - began >= seconds
        with contextlib.closing(self._run.items()) as items:
            for item in self._console.progress("asking").over(items):
                event = self._without_others(item)
                keeper.write(event)
                self._checker.take(event)
                if self._checker.mismatch_count and not self._args.keep_going:
                    self._stopped = "the first mismatch"
                    return
        if self._run.operations < self._args.operations:
            self._stopped = f"{counted(seconds or 0, 'second is', 'seconds are')} over"

    def _without_others(self, event: Event) -> Event:
        """Leave out allocations that do not fit while another process uses KVM: whose they are can not be told.

        Once one was seen this holds to the end: what it frees shows later than it does.
        """
        if not isinstance(event, Observe) or self._checker.foresees(event):
            return event
        self._others = self._others or others_use_kvm()
        if not self._others:
            return event
        self._disturbed += 1
        return Observe(label=DISTURBED)
