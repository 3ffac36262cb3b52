"""Compile the plain C loop there and then, and run it over the same columns."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from replay.engine.lanes import make_lanes
from replay.events import MemslotSet
from replay.kvm.machine import Machine
from replay.recording.open import open_recording
from replay.runs import ACCOUNT, ADD, Constant, Run

HERE = Path(__file__).resolve().parent
NOTHING, ZERO = 3, 4
Parts = tuple[list[Any], list[Any], list[Any]]


def _column(column: object, length: int) -> Any:
    if isinstance(column, Constant):
        return np.full(length, column.number, np.uint32)
    assert isinstance(column, memoryview)
    return np.frombuffer(column, f"u{column.itemsize}")


def write_columns(recording: Path, target: Path) -> tuple[int, int, int]:
    """Write (gfn, op, space) columns of a recording for the loop; return (records, pages of a space, spaces).

    Memslots are worked out here, not by the loop: events without one are marked, a deleted one is a range to zero.
    """
    stream = open_recording(recording)
    machine = make_lanes(["eager"], stream.header.machine)[0].machine
    parts: Parts = ([], [], [])
    number = end = 0
    for item in stream.items():
        if isinstance(item, Run):
            _run(machine, item, parts)
        elif isinstance(item, MemslotSet):
            slots = {slot.key: slot for slot in machine.vms[item.vm].slots()}
            slot = slots.get((item.slot >> 16, item.slot & 0xFFFF))
            machine.step(item, number)
            if slot is not None and not item.memory_size:
                end = max(end, slot.end_gfn)
                _add(parts, [slot.base_gfn, slot.npages], [ZERO, NOTHING], [2 * item.vm + slot.as_id] * 2)
        else:
            machine.step(item, number)
        number += len(item) if isinstance(item, Run) else 1
    gfn, op, space = np.concatenate(parts[0]), np.concatenate(parts[1]), np.concatenate(parts[2])
    target.write_bytes(gfn.astype(np.uint32).tobytes() + op.astype(np.uint8).tobytes() + space.astype(np.uint8).tobytes())
    return len(gfn), max(end, int(gfn.max()) + 1), int(space.max()) + 1


def _add(parts: Parts, *columns: Any) -> None:
    for part, column in zip(parts, columns, strict=True):
        part.append(np.asarray(column))


def _run(machine: Machine, run: Run, parts: Parts) -> None:
    length = len(run)
    kind, vm, as_id, gfn = (_column(getattr(run, name), length) for name in ("kind", "vm", "as_id", "gfn"))
    op = np.where(kind == ADD, 2, np.where(kind == ADD + 1, 0, np.where(kind == ACCOUNT, 2, np.where(kind == ACCOUNT + 1, 0, 1))))
    for number in np.unique(vm).tolist():
        for place, slots in enumerate(machine.vms[number].spaces):
            mine = (vm == number) & (as_id == place)
            held = np.zeros(length, bool)
            for slot in slots.by_base():
                held |= (gfn >= slot.base_gfn) & (gfn < slot.end_gfn)
            op[mine & ~held] = NOTHING
    _add(parts, gfn, op, 2 * vm.astype(np.uint32) + as_id)


def c_loop(recording: Path, folder: Path, passes: int) -> tuple[int, int, float] | None:
    """Return (hits, warnings, nanoseconds an event) of the C loop; None without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    program, columns = folder / "limit", folder / "columns.bin"
    subprocess.run([compiler, "-O2", "-o", program, HERE / "limit.c"], check=True)
    records, pages, spaces = write_columns(recording, columns)
    arguments = [str(program), str(columns), *map(str, (records, pages, spaces, passes))]
    hits, warns, nanoseconds = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.split()
    return int(hits), int(warns), float(nanoseconds)
