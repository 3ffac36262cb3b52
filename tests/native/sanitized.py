"""Run the tests of the compiled loop with its memory and arithmetic watched: `python tests/native/sanitized.py`, a minute or two.

Builds the loop with the address and undefined-behaviour sanitizers of gcc, and starts Python with their libraries before its own.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from replay.native.build import build, compiler

ROOT = Path(__file__).resolve().parent.parent.parent
FLAGS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


def main() -> int:
    """Return pytest's exit status, 2 where there is no such compiler."""
    made = build(Path(tempfile.mkdtemp()), FLAGS)
    if made is None:
        return 2
    names = ("libasan.so", "libubsan.so")
    found = [subprocess.check_output([*compiler(), f"-print-file-name={name}"], text=True).strip() for name in names]
    variables = os.environ | {"LD_PRELOAD": " ".join(found), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    variables["KVM_REPLAY_TESTED_LOOP"] = str(made)
    tests = ["tests/kvm/test_kvm_compiled.py", "tests/kvm/test_kvm_compiled_goldens.py"]
    return subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], cwd=ROOT, env=variables, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
