"""Compile the loop over hot rows, `rows.c`, where a C compiler and Python's headers are there.

The build of the distribution calls it, and so do the tests; `python -m replay.native.build` puts it beside the package of a
checkout. Without a compiler nothing is lost but time: see kvm/compiled.py.
"""

import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).resolve().parent / "rows.c"
MODULE: Final = "_kvm_replay_rows"
"""As in loop.py, which a build has not at hand."""
_FLAGS: Final = ("-O2", "-ftree-vectorize", "-fPIC", "-shared", "-std=gnu11", "-fno-strict-aliasing")
_MACOS: Final = ("-undefined", "dynamic_lookup")
"""The loop is loaded into a Python that has the symbols."""


def compiler() -> list[str]:
    """Return the command of the C compiler that is there; nothing where there is none, or no header of this Python."""
    if (
        sys.platform == "win32"
        or sys.implementation.name != "cpython"
        or not Path(sysconfig.get_path("include"), "Python.h").exists()
    ):
        return []
    for command in (sysconfig.get_config_var("CC") or "cc", "cc"):
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            return words
    return []


def build(folder: Path, more: Sequence[str] = ()) -> Path | None:
    """Compile the loop into a folder and return the module's file; None where that can not be done, which is said on stderr.

    more: further arguments of the compiler.
    """
    command = compiler()
    if not command:
        print("kvm-replay: no C compiler or no Python.h: the loop over hot rows is left to Python and numpy", file=sys.stderr)
        return None
    target = folder / f"{MODULE}{sysconfig.get_config_var('EXT_SUFFIX')}"
    flags = [*_FLAGS, *(_MACOS if sys.platform == "darwin" else ()), *more, f"-I{sysconfig.get_path('include')}"]
    done = subprocess.run(
        [*command, *flags, "-o", str(target), str(SOURCE)], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        print(f"kvm-replay: {SOURCE.name} was not compiled, Python and numpy do the same: {done.stderr}", file=sys.stderr)
        return None
    return target


if __name__ == "__main__":
    sys.exit(0 if build(SOURCE.parent.parent.parent) else 2)
