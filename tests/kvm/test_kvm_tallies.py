"""Promises of replay.kvm.tallies: totals and peaks are those of counting each allocation at once, whenever one looks."""

import random

import pytest

from replay.kvm.allocator import ARRAYS, GFN_WRITE_TRACK, SLOT, Allocation, Allocator
from replay.kvm.tallies import WAITING_MOST, Tally

P = 4096


class Slow:
    """Count each allocation when it happens."""

    def __init__(self) -> None:
        self.tallies: dict[object, Tally] = {array: Tally() for array in ARRAYS}

    def change(self, piece: Allocation, sign: int) -> None:
        """Count one."""
        cost = piece.cost
        for key in (piece.array, *([piece.vm] if piece.array == GFN_WRITE_TRACK else [])):
            tally = self.tallies.setdefault(key, Tally())
            tally.live += sign
            tally.count += sign > 0
            for name, size in (("nominal", cost.nominal_bytes), ("charged", cost.charged_bytes), ("real", cost.real_bytes)):
                now = getattr(tally, f"{name}_now") + sign * size
                setattr(tally, f"{name}_now", now)
                setattr(tally, f"{name}_peak", max(getattr(tally, f"{name}_peak"), now))
                setattr(tally, f"{name}_total", getattr(tally, f"{name}_total") + max(0, sign * size))


class TestTallies:
    """Nothing is lost by counting late."""

    @pytest.mark.parametrize("seed", range(8))
    def test_as_counted_at_once(self, seed: int) -> None:
        """Any takes and frees, looked at now and then: peaks of each measure, which are not at one moment, and all VMs."""
        rng, allocator, slow = random.Random(seed), Allocator(), Slow()
        live: list[Allocation] = []
        for number in range(3 * WAITING_MOST):
            allocator.begin(number)
            for _ in range(rng.randrange(3)):
                if live and rng.random() < 0.5:
                    piece = live.pop(rng.randrange(len(live)))
                    allocator.free(piece)
                    slow.change(piece, -1)
                else:
                    array, size = rng.choice(ARRAYS[1:]), rng.choice((1, P, P + 1, 513 * P, 1 << 33))
                    vm, slot = rng.randrange(3), (0, rng.randrange(9))
                    is_object = rng.random() < 0.2
                    made = allocator.kzalloc("b", vm, slot) if is_object else allocator.vcalloc("a", array, size, vm, slot)
                    assert made is not None
                    live.append(made)
                    slow.change(made, 1)
            if rng.random() < 0.01:
                self.hold(allocator, slow)
        self.hold(allocator, slow)
        peaks = allocator.tallies[SLOT].nominal_peak, allocator.tallies[GFN_WRITE_TRACK].nominal_peak
        assert min(peaks) > 0

    def test_never_looked_at(self) -> None:
        """What waits to be counted stays bounded when nobody looks, and is not lost."""
        allocator, slow = Allocator(), Slow()
        for number in range(3 * WAITING_MOST):
            allocator.begin(number)
            made = allocator.vcalloc("a", GFN_WRITE_TRACK, P, number % 3, (0, 0))
            assert made is not None
            slow.change(made, 1)
            assert len(allocator.books.waiting) <= WAITING_MOST + 1
        self.hold(allocator, slow)

    def hold(self, allocator: Allocator, slow: Slow) -> None:
        """Hold all totals against the slow ones."""
        assert allocator.tallies | allocator.write_track_by_vm == slow.tallies
