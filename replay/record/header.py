"""Say in a recording's header what machine and tools made it."""

import os
import platform
import re
from collections.abc import Callable
from typing import Final

import attrs

from replay.errors import NoKernelError
from replay.header import Header, Machine, SourceFile, Tool
from replay.live.device import DevKvm
from replay.live.probe import System, probe, probe_device, read_text
from replay.record.captures import Job
from replay.record.scripts import quoted
from replay.record.tracefs import clock_pairs
from replay.version import VERSION

_OPTIONS: Final = re.compile(r"^(CONFIG_KVM\w*)=(\S+)$", re.MULTILINE)
_PARAMETERS: Final = ("kvm/tdp_mmu", "kvm_intel/ept", "kvm_intel/unrestricted_guest", "kvm_amd/npt", "kvm_amd/avic")
FACTS_MAX: Final = 3000


def this_machine() -> Machine:
    """Return what is known of this machine; without a /dev/kvm that opens, what its files say."""
    try:
        device = DevKvm()
    except NoKernelError:
        return _without_device()
    try:
        return probe_device(device, platform.release(), read_text)[0]
    except NoKernelError:
        return _without_device()
    finally:
        device.shut()


def _without_device() -> Machine:
    """Return the facts that no capability tells: those that would be asked of a VM stay unknown."""
    machine, origins = probe(System(read_text, lambda _capability: -1, platform.release()))
    tdp = None if origins["tdp"].startswith("KVM_CAP") else machine.tdp
    return attrs.evolve(machine, smm=None, tdp=tdp)


def config_words(read: Callable[[str], str | None], release: str) -> str:
    """Return the kernel's options of KVM and the modules' parameters, as `NAME=value` words."""
    paths = ("/proc/config.gz", f"/boot/config-{release}", f"/lib/modules/{release}/config")
    text = next((text for text in map(read, paths) if text and "CONFIG_KVM" in text), "")
    options = [f"{name}={value}" for name, value in _OPTIONS.findall(text)]
    parameters = []
    for name in _PARAMETERS:
        module, _, parameter = name.partition("/")
        value = read(f"/sys/module/{module}/parameters/{parameter}")
        if value is not None:
            parameters.append(f"{module}.{parameter}={value.strip()}")
    return " ".join([*parameters, *options])[:FACTS_MAX]


def recording_header(
    job: Job, machine: Machine, tools: tuple[Tool, ...], files: tuple[SourceFile, ...], clock: str, own: str
) -> Header:
    """Return the header of a recording that is about to begin. machine: as it was found before. own: our own command line."""
    what = quoted(job.command) if job.pid is None else f"process {job.pid} ({name_of(job.pid)})"
    provenance = (
        f"recorded on the machine itself; clocks at its begin: {clock_pairs()}; {config_words(read_text, platform.release())}"
    )
    return Header(
        title=f"record: {what}"[:256],
        machine=machine,
        clock=clock,
        tools=(Tool(name="kvm-replay record", version=VERSION, command=own[:4096]), *tools),
        sources=files,
        provenance=provenance[:4096],
        compression="zlib",
        complete_start=job.pid is None,
    )


def name_of(pid: int) -> str:
    """Return the name of a process."""
    return (read_text(f"/proc/{pid}/comm") or "?").strip()


def user_may_not_see(pid: int) -> bool:
    """Say whether a process is there that is not ours to trace."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return False
