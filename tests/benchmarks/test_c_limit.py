"""Promises of the plain C loop that the hot path is compared with: it does what one lane does."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from c_limit import c_loop
from measure import write_items
from workloads import Profile, Workload

SMALL = ((4096, 512, 16), (64, 16))
PROFILES = (
    Profile("small", 20_000, run_events=700, sizes=SMALL),
    Profile("short", 6_000, run_events=40, sizes=SMALL, registered=(0, 1, 2, 3)),
    Profile("wide", 10_000, run_events=2_000),
)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
class TestCLoop:
    """The loop's figures against the model's."""

    @pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
    def test_counts_what_the_model_counts(self, profile: Profile, tmp_path: Path) -> None:
        """Hits, changes without a memslot, warnings and bytes of write tracking are equal, and none of them is zero."""
        path = tmp_path / "recording.kvmr"
        write_items(path, Workload(profile).items())
        found = c_loop(path, tmp_path, 2)
        assert found is not None
        loop, model, nanoseconds = found
        assert loop == model
        assert min(loop.hits, loop.without_slot, loop.warnings, loop.bytes_now) > 0
        assert nanoseconds > 0
