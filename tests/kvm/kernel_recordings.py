"""Make recordings/kernel/ from results of slotprobe, and read it.

`python tests/kvm/kernel_recordings.py RESULTS...` converts RESULTS/<prefix>-<configuration>/<case>.out, as the probe printed
them, into recordings/kernel/<prefix>-<configuration>/<case>.kvmr. What the results do not hold is in the table below: it is
known to whoever booted those kernels.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from replay.header import Machine, Tool
from replay.recording import Writer, open_recording
from replay.recording.reader import KvmrReader
from replay.sources.lab import CONFIG_NAME, LabImport, open_lab
from replay.version import VERSION

KERNELS = Path(__file__).resolve().parent.parent.parent / "recordings" / "kernel"


@attrs.frozen
class Kernel:
    """One kernel that was booted. policy: for kernels whose release does not tell it. facts: those that differ from BOOTED."""

    name: str
    release: str
    config: bool
    la57: bool = False
    policy: str | None = None
    facts: dict[str, Any] = attrs.field(factory=dict)


BOOTED: dict[str, Any] = {"smm": True, "max_phys_bits": 40}
"""Facts of the machines that QEMU's TCG makes."""
HERE: dict[str, Any] = {
    "smm": False,
    "max_phys_bits": 48,
    "vendor": "pvm",
    "tdp": False,
    "tdp_mmu": False,
    "total_ram_pages": 6171021,
}
ROWS = (
    Kernel("Debian 6.1 amd64", "6.1.192", config=True),
    Kernel("Debian 6.1 amd64, guest CPU with five-level paging", "6.1.192", config=True, la57=True),
    Kernel("Debian 6.1 cloud-amd64", "6.1.192", config=False),
    Kernel("Debian 6.12 amd64", "6.12.117", config=True),
    Kernel("Debian 6.12 cloud-amd64", "6.12.117", config=False),
    Kernel("Debian 6.12 amd64, only the on-demand policy undone in kvm.ko", "6.12.117", config=True, policy="eager"),
    Kernel("6.18.44 with a vendor module that pages by shadow pages, no SMM", "6.18.44", config=False, facts=HERE),
)
PREFIXES: dict[str, Kernel] = {
    "6.1": ROWS[0],
    "6.1smp2": ROWS[0],
    "6.1la57": ROWS[1],
    "6.1cloud": ROWS[2],
    "6.12": ROWS[3],
    "6.12smp2": ROWS[3],
    "6.12cloud": ROWS[4],
    "6.12eager": ROWS[5],
    "6.12eagersmp2": ROWS[5],
    "6.18pvm": ROWS[6],
}
"""What was booted, by the first part of a result folder's name."""
TCG = "booted under QEMU's TCG: AMD SVM with nested paging, 4 GiB, 40 physical address bits; slotprobe ran {case}.script"
ALIVE = "as it ran, without the test module; slotprobe ran {case}.script"


def kernel_of(folder: str) -> Kernel:
    """Return the kernel of a folder."""
    return PREFIXES[folder.partition("-")[0]]


def machine_of(folder: Path, results: Path) -> Machine:
    """Return the facts of a boot that only its operator knows."""
    kernel = kernel_of(folder.name)
    ram = ram_pages(folder) or ram_pages(results / f"{kernel.release.rpartition('.')[0]}-npt1")
    known = {**BOOTED, "total_ram_pages": ram, **kernel.facts}
    return Machine(kernel_release=kernel.release, config_external_write_tracking=kernel.config, la57=kernel.la57, **known)


def ram_pages(folder: Path) -> int | None:
    """Return MemTotal of a boot as one of its cases read it, None when none did."""
    for path in sorted(folder.glob("*.out")):
        for line in path.read_text().splitlines():
            if '"MemTotal":' in line:
                return int(json.loads(line)["meminfo"]["MemTotal"]) // 4
    return None


def stream_of(path: Path, results: Path) -> LabImport:
    """Return the stream of one result with all that is known of it."""
    stream = open_lab(str(path), machine_of(path.parent, results))
    kernel = kernel_of(path.parent.name)
    header = stream.header
    name = f"{path.parent.name}/{path.stem}"
    stream.header = attrs.evolve(
        header,
        title=name,
        tools=(*header.tools, Tool(name="kvm-replay", version=VERSION)),
        provenance=f"{kernel.name}, {(ALIVE if kernel.facts else TCG).format(case=path.stem)}",
        compression="zlib",
    )
    return stream


def make(results: Path, kernels: Path) -> int:
    """Write all recordings; return how many."""
    count = 0
    for path in sorted(results.glob("*-*/*.out")):
        if path.name == CONFIG_NAME:
            continue
        target = kernels / path.parent.name / f"{path.stem}.kvmr"
        target.parent.mkdir(parents=True, exist_ok=True)
        stream = stream_of(path, results)
        with Writer(str(target), stream.header, overwrite=True) as writer:
            for item in stream.items():
                writer.write(item)
            writer.finish(stream.trailer())
        count += 1
    return count


def paths() -> list[Path]:
    """List the recordings, kernels in the order of the table, configurations and cases by name."""
    order = list(PREFIXES)
    return sorted(KERNELS.glob("*/*.kvmr"), key=lambda p: (order.index(p.parent.name.partition("-")[0]), p.parent.name, p.name))


def recordings() -> Iterator[tuple[Path, KvmrReader]]:
    """Yield every recording, opened."""
    for path in paths():
        stream = open_recording(str(path))
        assert isinstance(stream, KvmrReader)
        yield path, stream


if __name__ == "__main__":
    made = sum(make(Path(results), KERNELS) for results in sys.argv[1:])
    sys.stdout.write(f"{made} recordings\n")
