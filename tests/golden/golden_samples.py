"""Golden files of a small recording, in a folder of their own, for the tests of what is done with them."""

import shutil
from pathlib import Path

from replay.golden.files import Wish, update_golden

ROOT = Path(__file__).resolve().parent.parent.parent
D02 = ROOT / "recordings" / "catalogue" / "D02-register.jsonl"
D08 = ROOT / "recordings" / "catalogue" / "D08-partial-register.jsonl"
CASE = """\
kvm-replay golden/1
# nothing but this file
machine: kernel_release=6.12.0 config_external_write_tracking=y tdp=y tdp_mmu=y smm=y
events:
  vm.create vm=0  # 10
  memslot.set vm=0 memory_size=0x100000 userspace_addr=0x7f0000000000  # 0
  # KVMGT opens its vGPU
  notifier.register vm=0  # 0 and may sleep
compare: --lanes eager,on-demand
"""
POLICY = """\
BASE = "on-demand"


def external_term(config, ext, disabled):
    return config and ext
"""
TERM_LINE = "    return config and ext\n"


def copied(folder: Path, *sources: Path, golden: bool = True) -> list[Path]:
    """Copy recordings into a folder, with golden files unless told otherwise; return the golden files."""
    found = []
    for source in sources or (D02,):
        shutil.copy(source, folder / source.name)
        found.append(folder / f"{source.name}.golden")
        if golden:
            assert update_golden(str(found[-1]), Wish()).state == "written"
    return found


def replaced(path: Path, *pairs: tuple[str, str]) -> None:
    """Replace texts in a file; each must be there."""
    text = path.read_text()
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)
