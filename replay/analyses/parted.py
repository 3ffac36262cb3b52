"""Compare one VM between two lanes in what every policy has: slots, counters, notifiers, whether it lives.

Arrays are left out (replay.analyses.arrays follows them), and so is what only one policy has (the sticky flag).
"""

from collections import Counter
from collections.abc import Callable
from typing import Final

from replay.kvm.vm import Vm


def state_difference(a: Vm, b: Vm) -> dict[str, tuple[str, str]]:
    """Return the fields that differ, in a fixed order, with both lanes' values in words; empty when nothing does.

    Cost: proportional to the number of slots and of counters that are not zero.
    """
    found: dict[str, tuple[str, str]] = {}
    for name, view in _VIEWS.items():
        values = (view(a), view(b))
        if values[0] != values[1]:
            found[name] = (_words(values[0], values[1]), _words(values[1], values[0]))
    return found


def _slots(vm: Vm) -> list[str]:
    slots = sorted(vm.slots(), key=lambda slot: slot.key)
    return [f"slot {s.id} as {s.as_id} at gfn {s.base_gfn:#x}, {s.npages:,} pages, flags {s.flags:#x}" for s in slots]


def _counts(vm: Vm) -> list[str]:
    return [
        f"as {slot.as_id} gfn {slot.base_gfn + index:#x} = {count}"
        for slot in sorted(vm.slots(), key=lambda slot: slot.key)
        for index, count in sorted(slot.arch.counts.items())
    ]


_VIEWS: Final[dict[str, Callable[[Vm], list[str]]]] = {
    "shadow_root_allocated": lambda vm: ["set" if vm.shadow_root_allocated else "not set"],
    "vm_bugged": lambda vm: ["dead (vm_bugged)" if vm.vm_bugged else "alive"],
    "slots": _slots,
    "counts": _counts,
    "notifiers": lambda vm: [f"node {node}" for node in sorted(vm.nodes)],
    "indirect_shadow_pages": lambda vm: [str(vm.indirect_shadow_pages)],
}


def _words(mine: list[str], theirs: list[str]) -> str:
    """Say what one side has that the other has not, shortly."""
    extra = list((Counter(mine) - Counter(theirs)).elements())
    if not extra:
        return "less" if mine else "none"
    return ", ".join(extra[:3]) + (f" and {len(extra) - 3:,} more" if len(extra) > 3 else "")
