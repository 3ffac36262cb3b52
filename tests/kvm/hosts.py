"""Name the hosts that tests run on, the functions that allocate, and what a new slot allocates where."""

from typing import Any

from lane import LAZY

from replay.kvm.machine import Outcome

SLOT, INVALID, DIRTY = "kvm_set_memory_region", "kvm_set_memslot(invalid)", "kvm_set_memslot"
RMAP, LPAGE = "memslot_rmap_alloc", "kvm_arch_prepare_memory_region"
CREATE, ROOT, REGISTER = (
    "kvm_page_track_create_memslot",
    "kvm_page_track_write_tracking_alloc",
    "kvm_page_track_register_notifier",
)

# Facts of the host -> what a slot has there besides lpage_info: rmaps, and write tracking under an eager policy or on demand.
HOSTS: dict[str, tuple[dict[str, Any], bool, bool, bool]] = {
    "tdp": ({}, False, True, False),
    "tdp, no TDP MMU": ({"tdp_mmu": False}, True, True, False),
    "no tdp": ({"tdp": False}, True, True, True),
    "tdp, option off": ({"config_external_write_tracking": False}, False, False, False),
    "no tdp, option off": ({"tdp": False, "config_external_write_tracking": False}, True, True, True),
}


def sites(outcome: Outcome) -> list[str]:
    """Return who allocated, in order."""
    return [piece.site for piece in outcome.taken]


def expected_arrays(policy: str, host: str) -> list[str]:
    """Return who allocates the arrays of a new slot, in the kernel's order."""
    _facts, rmaps, eager, lazy = HOSTS[host]
    tracked = lazy if policy == LAZY else eager
    return [RMAP] * 3 * rmaps + [LPAGE] * 2 + [CREATE] * tracked
