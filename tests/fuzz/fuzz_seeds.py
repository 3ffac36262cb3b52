"""Inputs that fuzzing starts from: small recordings and traces that come with the project, in the form of each target."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fuzz_targets import BLOCK, SEPARATOR
from kvmrwriter import payloads

from recordings import small_events
from replay.engine.checkpoint import checkpoint_of
from replay.engine.lanes import make_lanes
from replay.engine.lockstep import lockstep
from replay.header import Machine
from replay.recording.index_file import DIGEST_BYTES, SIGNATURE, Checkpoint, Index, IndexedLane, index_bytes
from replay.runs import items_of

ROOT: Final = Path(__file__).resolve().parent.parent.parent
SEED_BYTES_MAX: Final = 6000
CORPUS: Final = Path(__file__).resolve().parent / "corpus"


def _files(folder: str, pattern: str, most: int = 40) -> list[bytes]:
    """Return the smallest files of a folder that fit, each content once."""
    paths = sorted((ROOT / folder).rglob(pattern), key=lambda path: (path.stat().st_size, str(path)))
    found = dict.fromkeys(path.read_bytes() for path in paths if 0 < path.stat().st_size <= SEED_BYTES_MAX)
    step = max(1, len(found) // most)
    return list(found)[::step]


def _heads(folder: str) -> list[bytes]:
    """Return the first lines of each text file in a folder."""
    texts = [path.read_bytes()[:SEED_BYTES_MAX] for path in sorted((ROOT / folder).glob("*"))]
    return [text[: text.rindex(b"\n") + 1] for text in texts if b"\n" in text]


def _parts(recording: bytes) -> bytes:
    """Return a recording as the target `mended` takes it."""
    blocks = payloads(recording)[:-1]
    return b"".join(BLOCK.pack(block.kind, block.flags, block.events, len(block.payload)) + block.payload for block in blocks)


def _states() -> list[bytes]:
    """Return an index and the state of lanes, both without their digest or compression."""
    lanes = make_lanes(["eager", "on-demand"], Machine())
    for _step in lockstep(items_of(small_events()), lanes):
        pass
    state = checkpoint_of(lanes)
    kept = Index("recording", "maker", (IndexedLane("key", "eager"),), (Checkpoint(3, state),))
    return [index_bytes(kept)[len(SIGNATURE) + DIGEST_BYTES :], zlib.decompress(state)]


FTRACE: Final = b"""\
# tracer: nop
             vmm-100     [001] ..... 1795343281.000110: sys_ioctl(fd: 3, cmd: 0xae01, arg: 0x0)
             vmm-100     [001] ..... 1795343281.000120: sys_ioctl -> 0x4
             vmm-100     [001] ..... 1795343281.000210: sys_ioctl(fd: 4, cmd: 0x4020ae46, arg: 0x7ffe92ed8d40)
             vmm-100     [001] ..... 1795343281.000220: sys_ioctl -> 0x0
 vmm-101     [000] ..... 1795343281.000230: kvm_mmu_get_page: sp gen 0 gfn 8b0 l2 8-byte q0 wux nxe ad root 0 sync new
 vmm-101     [000] ..... 1795343281.000240: kvm_mmu_prepare_zap_page: sp gen 0 gfn 8b0 l2 8-byte q0 wux nxe ad root 0 sync
CPU:1 [LOST 12 EVENTS]
             vmm-100     [001] ..... 1795343281.000310: sys_ioctl(fd: 4, cmd: 0xae41, arg: 0x0)
             vmm-100     [001] ..... 1795343281.000320: sys_ioctl -> 0x5
"""


GOLDEN = b"""\
kvm-replay golden/1
title: a case by hand
machine: kernel_release=6.8.0 config_external_write_tracking=y tdp=y
events: 3, 1 VM
  vm.create vm=0 task=1/1  # 5
  # a remark
  memslot.set vm=0 slot=1 memory_size=0x1000 userspace_addr=0x7f0000000000 task=1/2 entered=0  # -ENOMEM why
  observe vm=0 state={"nr_memslot_pages":0,"slots":[]}
counter: kind="odd lines" count=3 severity=lost
compare: --lanes eager,on-demand
  verdict: same
"""


def seeds(target: str) -> Iterator[bytes]:
    """Yield the seeds of a target, the finds of earlier runs first."""
    folder = CORPUS / target
    yield from (path.read_bytes() for path in sorted(folder.glob("*")) if path.is_file())
    recordings, lines = _files("recordings", "*.kvmr"), _files("recordings", "*.jsonl")
    goldens = _files("recordings", "*.golden")
    straces, formats = _files("tests/data/strace", "*.txt"), _heads("tests/data/formats")
    table: dict[str, list[bytes]] = {
        "kvmr": recordings,
        "mended": [_parts(data) for data in recordings],
        "jsonl": lines,
        "golden": [GOLDEN, *goldens[:20]],
        "index": _states(),
        "strace": straces,
        "tracefs": [FTRACE, *formats],
        "merged": [text + SEPARATOR + FTRACE for text in straces],
        "lab": _files("tests/data", "*.out"),
        "any": [*recordings[:5], *lines[:5], *straces[:10], *formats, FTRACE],
    }
    yield from table[target]
