"""List the flips that no recording notices, each with its reason."""

from typing import Final

UNREACHED: Final = (
    "nothing that gets so far can be refused here: userspace can not hold 2^64 pages, nor delete what is not counted, nor "
    "register where the functions are not compiled in"
)
SAME: Final = "another rule gives the same answer to every request, so this is no other model"
LAST: Final = "nothing that can fail comes after this allocation in its call, so it is never unwound"
HIDDEN: Final = (
    "no call's result, no observation and no report shows it: the slab of a slot object, generations, the order in which a dying "
    "VM's slots are freed; or, for the warning at 65,535, only after more adds than a recording written by hand can have"
)
IDLE: Final = "under this policy nothing asks it, or what it would do is there already"
NO_RECORDING: Final = "no recording yet"

RULES: Final[dict[str, tuple[str, ...]]] = {
    UNREACHED: (
        "check dropped: delete of more pages than there are",
        "check with another errno: delete of more pages than there are",
        "check dropped: page count of the VM wraps",
        "check with another errno: page count of the VM wraps",
        "opt-out check under another configuration: a notifier is registered",
    ),
    SAME: (
        "check dropped: guest_phys_addr + memory_size wraps",
        "check after the next one: delete of a slot that is not there",
        "check on every release: flag of REGION2 in REGION",
        "check on every release: guest_memfd_offset unaligned or wraps",
        "check on every release: guest_memfd slot is immutable",
        "check on every release: GUEST_MEMFD of a live slot changes",
        "KVM_MEM_SLOTS_NUM: one more",
        # The engine leaves the calls of external users out where they can not exist.
        "external functions without the option too",
        # The INVALID copy was put at the head of its bucket in that set already, and nothing came between.
        "taken back without a link",
    ),
    LAST: (
        "unwinding leaves what kvm_page_track_create_memslot made",
        "unwinding leaves what kvm_page_track_register_notifier made",
        "unwinding leaves what kvm_page_track_write_tracking_alloc made",
    ),
    HIDDEN: (
        "a slot object in a slab of 256 bytes",
        "a counter at 65535 does not warn",
        "generation grows by one",
        "generation does not grow",
        "a VM dies in the order of set 0",
    ),
}
"""Reason -> flips of checks, allocation and other rules."""

POLICY_FIELDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    SAME: {
        "eager-6.6": ("reference_first",),
        "v1": ("reference_first",),
        "v2": ("reference_first",),
        "on-demand": ("external term, CONFIG not asked", "reference_first"),
        "ideal": ("external term, CONFIG not asked", "reference_first"),
    },
    IDLE: {
        "always": ("has_ext_flag", "bug_when_disabled", "root_enables"),
        "eager-5.16": ("external term, flag enough",),
        "eager-6.6": ("external term, flag enough", "bug_when_disabled", "root_enables"),
        "v1": ("external term, flag enough", "has_ext_flag", "root_enables"),
        "v2": ("has_ext_flag",),
    },
}
"""Reason -> policy -> its fields of which no recording notices when they are turned."""


def survivors() -> dict[str, str]:
    """Return every flip that survives with its reason."""
    found = {name: reason for reason, names in RULES.items() for name in names}
    for reason, rows in POLICY_FIELDS.items():
        found |= {f"policy {policy}: {field}": reason for policy, fields in rows.items() for field in fields}
    return found
