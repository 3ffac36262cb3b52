"""Gather what the kernel log would say. Source: WARN_ON_ONCE, KVM_BUG_ON in arch/x86/kvm/mmu [6.1, 6.12]."""

from functools import cache
from typing import Final

import attrs

UNDERFLOW: Final = "WARN: write-track count below 0"
OVERFLOW: Final = "WARN: write-track count above 65535"
LPAGE: Final = "WARN: disallow_lpage below 0"
"""Said once a VM, behind the warning of a counter if there is one. From 6.6 on the kernel says it once, before each time."""
DISABLED: Final = "WARN: write tracking is not enabled"
BUG: Final = "KVM_BUG_ON: write tracking is not enabled"
NO_SLOT: Final = "no memslot for the gfn"
NO_ARRAY: Final = "gfn_write_track is NULL"
GONE: Final = "the VM is gone"
REASONS: Final = (UNDERFLOW, OVERFLOW, DISABLED, BUG, NO_SLOT, NO_ARRAY, GONE, LPAGE)
"""All that is said of a row, each at most once, in the order in which it is said: LPAGE alone comes behind another one."""
BITS: Final = {reason: 1 << place for place, reason in enumerate(REASONS)}
"""What stands for each where a byte says all that is said of a row."""


@cache
def reasons_of(bits: int) -> tuple[str, ...]:
    """Return what a byte of BITS says, in order. Source: see the reasons' users.

    >>> reasons_of(BITS[LPAGE] | BITS[UNDERFLOW])
    ('WARN: write-track count below 0', 'WARN: disallow_lpage below 0')
    """
    return tuple(reason for reason, bit in BITS.items() if bits & bit)


@attrs.define
class KernelLog:
    """Warnings of one lane: counted by reason, and those of the current event. Source: see the reasons' users."""

    counts: dict[str, int] = attrs.field(factory=dict)
    new: list[str] = attrs.field(factory=list)

    def add(self, reason: str) -> None:
        """Count one warning and note it for the current event."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.new.append(reason)
