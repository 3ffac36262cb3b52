"""The one promise of speed that is held by a test: the hot path on the pd-like profile, as a ratio within one run."""

import subprocess
import sys
from pathlib import Path
from typing import Final

LEAST: Final = 1.2
"""Speed of a two-lane comparison relative to a row decoder; it measures 1.62 without the compiled loop, as tests are, and 1.75
with it, on two cores that eight processes want."""
TRIES: Final = 3


class TestGate:
    """The hot path does not become slow unnoticed."""

    def test_pd_like_profile(self) -> None:
        """Comparing is at least so fast against decoding rows, in the best of some tries, each a process of its own."""
        program = Path(__file__).resolve().parent / "gate.py"
        found = []
        for _ in range(TRIES):
            done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
            found.append(float(done.stdout.split()[0]))
            if found[-1] >= LEAST:
                return
        raise AssertionError(f"compare is {max(found)}x as fast as the row decoder, and should be {LEAST}x at least")
