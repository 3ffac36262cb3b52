"""Read what slotprobe printed of a real kernel: one JSON object an operation, with the kernel's own state beside it.

Format name "lab". Every operation becomes the events that it stands for, and an `observe` with what the kernel then looked
like. Facts of the machine are never guessed from a name: they come from the caller, and from `_config.out` beside the file.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

from replay.events import Event, Lost, Observe
from replay.events.base import Source
from replay.header import Header, Machine, SourceFile, Tool, Trailer
from replay.runs import Item, items_of
from replay.sources.files import Input, lines_of
from replay.sources.lab_compose import RACED, events_of, raced_vm
from replay.sources.lab_lines import LabEnd, LabLine, is_cut, parse_line
from replay.sources.lab_module import MODULE_READERS
from replay.sources.lab_ops import Lab, Operation
from replay.sources.lab_state import areas_of, state_of
from replay.units import PAGE_SHIFT

FORMAT: Final = "lab"
CONFIG_NAME: Final = "_config.out"
CONFIG_CHARS_MAX: Final = 1 << 16
SCRIPT_CHARS_MAX: Final = 1 << 20
STAND_IN: Final = "userspace address of named memory: not recorded, a stand-in is used"
CALLBACKS: Final = "notifier callbacks"
_CONFIG_FACT: Final = re.compile(r'"config_external_write_tracking":([01])\b')


def config_of(text: str) -> Machine:
    r"""Read the facts that `_config.out` holds: tdp, tdp_mmu, vendor, AVIC, CONFIG_KVM_EXTERNAL_WRITE_TRACKING.

    >>> config_of("tdp_mmu=Y\nnpt=Y\navic=N\n").tdp
    True
    """
    words = dict(line.partition("=")[::2] for line in text.splitlines() if not line.startswith("{"))
    config = _CONFIG_FACT.search(text)

    def fact(name: str) -> bool | None:
        return {"Y": True, "1": True, "N": False, "0": False}.get(words.get(name, ""))

    return Machine(
        config_external_write_tracking=None if config is None else config[1] == "1",
        tdp=fact("npt"),
        # Before 6.12 the parameter stays Y with tdp off; the TDP MMU is in use only with both (mmu.c, kvm_configure_mmu()).
        tdp_mmu=False if fact("npt") is False else fact("tdp_mmu"),
        vendor="amd" if fact("npt") is not None else None,
        avic=fact("avic"),
    )


def is_lab(head: bytes) -> bool:
    """Tell by its first line whether a file is a slotprobe result: a JSON object with n, op, ret and err.

    >>> is_lab(b'{"n":1,"op":"vm v","ret":0,"err":"0","kvm":{}}')
    True
    """
    first = head.lstrip().partition(b"\n")[0]
    return first.startswith(b'{"n":') and all(name in first[:4096] for name in (b'"op":"', b'"ret":', b'"err":"'))


def open_lab(what: str | Input, machine: Machine | None = None) -> "LabImport":
    """Return the stream of one result, with what lies beside it: `_config.out` and the script of the same name.

    machine: facts that the caller knows; they go before those of `_config.out`. Raises UnreadableError.
    """
    source = Input(what) if isinstance(what, str) else what
    config = config_of(_beside(source, CONFIG_NAME, CONFIG_CHARS_MAX))
    script = _beside(source, f"{source.name.removesuffix('.out')}.script", SCRIPT_CHARS_MAX)
    known = with_facts(machine or Machine(), config)
    return LabImport(source.name, lines_of(source), known, script=script)


def _beside(source: Input, name: str, most: int) -> str:
    """Return the text of a file in the same folder, "" when it is not there."""
    if source.is_stdin or not (Path(source.path).parent / name).is_file():
        return ""
    return Input(Path(source.path).parent / name).head(most).decode("utf-8", "replace")


class LabImport:
    """A slotprobe result as a stream. lines: those of the file. machine: all facts that are known of its machine.

    script: the script that was run, "" when it is not there; it only tells what was going on when the probe was killed.
    """

    def __init__(self, name: str, lines: Iterable[str], machine: Machine, *, script: str = "") -> None:
        self._name = name
        self._lines = lines
        self._script = script
        self._lab = Lab(tdp=machine.tdp)
        self._events = 0
        self._last = 0
        self._warnings: list[str] = []
        self.header = Header(
            title=name,
            machine=machine,
            tools=(Tool(name="slotprobe"),),
            sources=(SourceFile(name=name[:255], format=FORMAT),),
        )

    def items(self) -> Iterator[Item]:
        """Yield the items. Raises TraceSyntaxError for a line that slotprobe would not print."""
        yield from items_of(self._counted())

    def trailer(self) -> Trailer:
        """Return the counts, with what was passed over."""
        if self._lab.rams.used:
            self._lab.tally.add(self._name, STAND_IN, "ignored", self._lab.rams.used)
            self._lab.rams.used = 0
        return Trailer(events=self._events, counters=self._lab.tally.counters())

    def warnings(self) -> Sequence[str]:
        """Return what is worth a sentence on stderr."""
        return self._warnings

    def _counted(self) -> Iterator[Event]:
        for event in self._all():
            self._events += 1
            yield event

    def _all(self) -> Iterator[Event]:
        cut = ""
        for line_number, text in enumerate(self._lines, start=1):
            if not text.strip():
                continue
            where = f"{self._name}:{line_number}"
            if is_cut(text) and not cut:
                cut = text
                self._lab.tally.add(where, "operation that was not written to its end", "lost")
                continue
            line = parse_line(text, where)
            source = Source(0, line_number)
            if isinstance(line, LabEnd):
                yield from self._end(line, source, where)
            elif cut:
                parse_line(cut, f"{self._name}:{line_number - 1}")  # raises: operations follow the one that is cut off
            else:
                yield from self._line(line, source, where)
                self._last = line.number

    def _line(self, line: LabLine, source: Source, where: str) -> Iterator[Event]:
        op = Operation(
            words=line.words,
            ret=line.ret,
            extra=line.extra,
            source=source,
            where=where,
            module_refused=line.module_refused,
        )
        yield from events_of(self._lab, op)
        self._lab.vms.module_open |= line.words[0] in MODULE_READERS and not line.module_refused
        if "events" in line.extra:
            self._lab.tally.add(where, CALLBACKS, "ignored")
        self._charge(line)
        yield self._observation(line, op, source, where)

    def _observation(self, line: LabLine, op: Operation, source: Source, where: str) -> Observe:
        raced = bool(line.areas) and raced_vm(self._lab, op)
        if raced:
            self._lab.tally.add(where, RACED, "ignored")
        dump = line.extra.get("dump")
        vm = self._lab.vms.by_name.get(line.words[1]) if len(line.words) > 1 else None
        return Observe(
            vm=None if vm is None else vm.number,
            state=None if dump is None or vm is None else state_of(dump, where),
            areas=None if raced else areas_of(line.areas),
            label=line.label,
            source=source,
        )

    def _charge(self, line: LabLine) -> None:
        """Keep what the memory cgroup is charged: pages of arrays, as far as the probe shows them."""
        pages = sum(row[2] - row[4] for row in line.areas)
        cgroup = self._lab.cgroup
        cgroup.current_bytes = max(0, cgroup.current_bytes + (pages << PAGE_SHIFT))

    def _end(self, line: LabEnd, source: Source, where: str) -> Iterator[Event]:
        if not line.what:
            return
        operation = self._next_operation()
        what = f"{line.what} in operation {operation!r}" if operation else line.what
        self._lab.tally.add(where, what[:128], "lost")
        self._warnings.append(f"{where}: {what}")
        yield Lost(what=what[:256], source=source)

    def _next_operation(self) -> str:
        """Return the operation of the script that comes after the last one that was printed."""
        lines = self._script.splitlines()[self._last :]
        return next((text for line in lines if (text := line.partition("#")[0].strip())), "")


def with_facts(machine: Machine, more: Machine) -> Machine:
    """Return a machine with those facts of another one that it lacks."""
    names = [field.name for field in attrs.fields(Machine) if getattr(machine, field.name) is None]
    return attrs.evolve(machine, **{name: getattr(more, name) for name in names})
