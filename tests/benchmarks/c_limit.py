"""Compile the plain C loop there and then, and run it over the same columns."""

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np

from replay.engine.lanes import make_lanes
from replay.engine.lockstep import RunStep, lockstep
from replay.events import MemslotSet, VmCreate
from replay.events.base import Event
from replay.kvm.allocator import GFN_WRITE_TRACK
from replay.kvm.kernel_log import NO_SLOT
from replay.kvm.machine import Machine, Outcome
from replay.kvm.page_track import reads_all_address_spaces
from replay.recording.open import open_recording
from replay.runs import Constant
from replay.units import EINVAL

HERE = Path(__file__).resolve().parent
CALL: Final = struct.Struct("<QQQIIII")
CREATE_VM, SET_MEMSLOT, DESTROY_VM = range(3)
COLUMNS: Final = {"gfn": np.uint32, "kind": np.uint8, "vm": np.uint8, "as_id": np.uint8, "level": np.uint8}


@attrs.frozen
class Figures:
    """What one lane counts. hits: reads of a tracked gfn; without_slot: changes of a gfn in no memslot; bytes: nominal ones."""

    hits: int
    without_slot: int
    warnings: int
    bytes_now: int
    bytes_peak: int


def _column(column: object, length: int, dtype: Any) -> Any:
    if isinstance(column, Constant):
        return np.full(length, column.number, dtype)
    found = np.asarray(column)
    assert int(found.max()) <= np.iinfo(dtype).max, "the loop has narrow columns"
    return found.astype(dtype)


def write_columns(recording: Path, target: Path) -> Figures:
    """Write the rows and calls of a recording for the loop; return what the model counts in them."""
    calls, columns = [], dict[str, list[Any]]({name: [] for name in COLUMNS})
    rows = hits = without_slot = 0
    with open_recording(recording) as stream:
        (lane,) = lanes = make_lanes(["eager"], stream.header.machine)
        for step in lockstep(stream.items(), lanes):
            outcome = step.outcomes[0]
            if isinstance(step, RunStep):
                for name, parts in columns.items():
                    parts.append(_column(getattr(step.run, name), len(step.run), COLUMNS[name]))
                rows, rets = rows + len(step.run), list(step.outcomes[0].rets.values())
                hits += len(step.outcomes[0].tracked_writes) + rets.count(1)
                without_slot += rets.count(-EINVAL)
            elif isinstance(outcome, Outcome):
                calls += _calls(lane.machine, step.event, outcome, rows)
    data = {name: np.concatenate(parts).tobytes() for name, parts in columns.items()}
    target.write_bytes(struct.pack("<QQ", rows, len(calls)) + b"".join(calls) + b"".join(data.values()))
    counts, tally = lane.machine.log.counts, lane.machine.allocator.tallies[GFN_WRITE_TRACK]
    warned = sum(number for reason, number in counts.items() if "count" in reason)
    return Figures(hits, without_slot + counts.get(NO_SLOT, 0), warned, tally.nominal_now, tally.nominal_peak)


def _calls(machine: Machine, event: Event, outcome: Outcome, row: int) -> list[bytes]:
    """Return what an event means to the loop: calls that succeed; row: how many rows are before it."""
    number = getattr(event, "vm", 0)
    if isinstance(event, VmCreate) and number in machine.vms:
        vm = machine.vms[number]
        both = vm.nas > 1 and reads_all_address_spaces(vm)
        return [CALL.pack(row, both, vm.nas, CREATE_VM, number, 0, 0)]
    if isinstance(event, MemslotSet) and outcome.ret == 0 and number in machine.vms:
        place = event.guest_phys_addr >> 12, event.memory_size >> 12
        return [CALL.pack(row, *place, SET_MEMSLOT, number, event.slot >> 16, event.slot & 0xFFFF)]
    return [CALL.pack(row, 0, 0, DESTROY_VM, number, 0, 0)] if number in machine.gone else []


def c_loop(recording: Path, folder: Path, passes: int) -> tuple[Figures, Figures, float] | None:
    """Return what the loop counts, what the model does, and the loop's nanoseconds an event; None without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    program, columns = folder / "limit", folder / "columns.bin"
    subprocess.run([compiler, "-O2", "-Wall", "-o", program, HERE / "limit.c"], check=True)
    model = write_columns(recording, columns)
    output = subprocess.run([str(program), str(columns), str(passes)], check=True, capture_output=True, text=True).stdout.split()
    return Figures(*map(int, output[:-1])), model, float(output[-1])
