"""Print how fast a two-lane comparison is against merely decoding the same events as rows, on the pd-like profile.

`python tests/benchmarks/gate.py` prints one number: 1.0 is as fast as the row decoder. CPU time of this process, rounds
interleaved, the best of each; the events are those of `kvm-replay generate shadow`, made after the largest capture.
"""

import sys
import tempfile
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from measure import Case, comparison, in_turn, row_decoder, write_items

from replay.generate import generated, profile_named

EVENTS: Final = 250_000
ROUNDS: Final = 7


def ratio() -> float:
    """Return the speed of the comparison, from the file to the report, relative to the row decoder's."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pd-like.kvmr"
        stream = generated(profile_named("shadow"), EVENTS, 1)
        hot = write_items(path, stream.items(), stream.header)
        rows = row_decoder(path)
        ours: Case = comparison("compare", path, hot, ("eager", "on-demand"))
        in_turn([rows, ours], ROUNDS)
        return rows.best_ns / ours.best_ns


if __name__ == "__main__":
    print(f"{ratio():.2f}")
