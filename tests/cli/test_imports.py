"""Promises of what a run loads: `--help` starts fast because it loads no library."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from cli_samples import ROOT, write_kvmr

from replay.cli.verbs import VERBS
from replay.events import Event, MemslotSet, NotifierRegister, VmCreate, WriteTrackAdd
from replay.header import Header, Trailer
from replay.units import Gfn, Gpa, Hva

PROBE = """
import sys
from replay.cli import main
status = main(sys.argv[1:])
loaded = sorted({name.split(".")[0] for name in sys.modules})
rooms = sorted({name for name in sys.modules if name.startswith("replay.") and name.count(".") == 1})
print("LOADED", status, *loaded)
print("ROOMS", *rooms)
"""
LIBRARIES = {"attr", "attrs", "jsonschema", "msgpack", "numpy", "rich", "sortedcontainers", "zstandard"}


def loaded(arguments: Sequence[str], status: str = "0") -> tuple[set[str], set[str]]:
    """Return the top-level modules and the rooms that one command line loads; it must end with that status."""
    command = [sys.executable, "-c", PROBE, *arguments]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    modules = next(line for line in lines if line.startswith("LOADED ")).split()
    assert modules[1] == status
    return set(modules[2:]), set(next(line for line in lines if line.startswith("ROOMS ")).split()[1:])


class TestHelp:
    """Help and version load the standard library and the frame."""

    @pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([verb.name, "--help"] for verb in VERBS)], ids=" ".join)
    def test_loads_no_library(self, arguments: list[str]) -> None:
        """No library, no event class and no model is loaded for help."""
        modules, rooms = loaded(arguments)
        assert "argparse" in modules
        assert modules & LIBRARIES == set()
        assert rooms <= {"replay.cli", "replay.errors", "replay.report", "replay.units", "replay.version"}


class TestSmallRun:
    """A small job loads no big library."""

    @pytest.mark.parametrize("verb", ["info", "dump"])
    def test_small_recording_needs_neither_numpy_nor_rich(self, verb: str, tmp_path: Path) -> None:
        """Reading a small recording imports neither numpy nor rich."""
        modules, _ = loaded([verb, str(write_kvmr(tmp_path / "boot.kvmr"))])
        assert "attrs" in modules
        assert modules & {"numpy", "rich", "jsonschema", "zstandard"} == set()

    def test_comparing_2000_events_needs_no_numpy(self, tmp_path: Path) -> None:
        """Neither does a comparison of 2,000 events in one run, also where one of two VMs parted."""
        events: list[Event] = [VmCreate(vm=0), VmCreate(vm=1)]
        slots = [
            MemslotSet(vm=vm, slot=0, guest_phys_addr=Gpa(0), memory_size=1 << 24, userspace_addr=Hva(1 << 40), ret=0)
            for vm in (0, 1)
        ]
        adds = [WriteTrackAdd(vm=row % 2, gfn=Gfn(row)) for row in range(2000)]
        path = write_kvmr(
            tmp_path / "parted.kvmr", [*events, *slots, NotifierRegister(vm=1, node=0, ret=0), *adds], Header(), Trailer()
        )
        modules, _ = loaded(["compare", "--lanes", "eager,on-demand", str(path)], "1")
        assert modules & {"numpy", "rich", "jsonschema", "zstandard"} == set()
