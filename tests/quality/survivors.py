"""List the flips that no recording notices, each with its reason."""

from typing import Final

UNREAD: Final = "no code of the model asks this field: it describes the kernel for readers"
UNREACHED: Final = (
    "no request that gets so far can be refused here: userspace can not hold 2^64 pages, nor delete what is not counted"
)
SAME: Final = "another rule gives the same answer to every request, so this is no other model"
HIDDEN: Final = "nothing that a kernel was asked and no report's text shows it: slab sizes, generations, warnings"
IDLE: Final = "under this policy nothing asks it, or what it would do is there already"
NO_RECORDING: Final = "no recording yet"

RULES: Final[dict[str, tuple[str, ...]]] = {
    UNREACHED: (
        "check dropped: delete of more pages than there are",
        "check with another errno: delete of more pages than there are",
        "check dropped: page count of the VM wraps",
        "check with another errno: page count of the VM wraps",
    ),
    SAME: (
        "check dropped: guest_phys_addr + memory_size wraps",
        "check after the next one: delete of a slot that is not there",
        "opt-out check under another configuration: no such capability",
        "check on every release: flag of REGION2 in REGION",
        "check on every release: guest_memfd_offset unaligned or wraps",
        "check on every release: guest_memfd slot is immutable",
        "check on every release: GUEST_MEMFD of a live slot changes",
        "valid flags: 6.1 like 6.12",
        "KVM_MEM_SLOTS_NUM: one more",
    ),
    HIDDEN: (
        "page pointers not in slab classes",
        "page pointers in powers of two",
        "a slot object in a slab of 256 bytes",
        "a counter at 65535 does not warn",
        "generation grows by one",
        "generation does not grow",
    ),
    NO_RECORDING: (
        "check dropped: flag of REGION2 in REGION",
        "check dropped: guest_memfd_offset unaligned or wraps",
        "check with another errno: guest_memfd_offset unaligned or wraps",
        "check dropped: more pages than a slot can have",
        "check dropped: guest_memfd slot is immutable",
        "check with another errno: guest_memfd slot is immutable",
        "check dropped: GUEST_MEMFD of a live slot changes",
        "check with another errno: GUEST_MEMFD of a live slot changes",
        "check after the next one: foreign mm or dead VM",
        "check after the next one: REGION2 is not there before 6.8",
        "check after the next one: unreadable argument",
        "check dropped: GET_DIRTY_LOG row 1 (6)",
        "check with another errno: GET_DIRTY_LOG row 1 (6)",
        "check dropped: GET_DIRTY_LOG row 4 (14)",
        "check with another errno: GET_DIRTY_LOG row 4 (14)",
        "check dropped: CLEAR_DIRTY_LOG row 1 (6)",
        "check with another errno: CLEAR_DIRTY_LOG row 1 (6)",
        "check dropped: CLEAR_DIRTY_LOG row 2 (22)",
        "check with another errno: CLEAR_DIRTY_LOG row 2 (22)",
        "check dropped: CLEAR_DIRTY_LOG row 6 (14)",
        "check with another errno: CLEAR_DIRTY_LOG row 6 (14)",
        "opt-out check dropped: flags",
        "opt-out check with another errno: flags",
        "opt-out check under another configuration: flags",
        "opt-out check under another configuration: an argument other than 0 and 1",
        "opt-out check under another configuration: shadow paging needs write tracking",
        "opt-out check under another configuration: a memslot is there",
        "opt-out check under another configuration: a notifier is registered",
        "policy since 6.10 instead of 6.9",
        "policy since 6.7 instead of 6.6",
        "policy since 6.5 instead of 6.6",
        "policy since 5.17 instead of 5.16",
        "lpages: start not asked",
        "charged a page less",
        "pointer arrays charged too",
        "the last page of the limit is not given",
        "an injection counts only until another hits",
        "an injection hits in every VM",
        "unwinding leaves what kvm_page_track_create_memslot made",
        "unwinding leaves what kvm_page_track_register_notifier made",
        "unwinding leaves what kvm_page_track_write_tracking_alloc made",
        "freed memory stays charged",
        "arrays of a slot in the order lrw",
        "dirty bitmap after the arch arrays",
        "external functions without the option too",
        "flush of a slot for drivers without a table too",
        "a driver's table outlives its last node",
        "shadow pages are accounted in address space 0",
        "external users in the given address space",
        "reads look into one address space always",
        "reads: no stable release has the fix",
        "taken back without a link",
        "a VM dies in the order of set 0",
        "dirty bitmaps with a dirty ring too",
        "user memory: 6.1 like 6.12",
        "user memory: 6.12 like 6.1",
        "KVM_MEM_MAX_NR_PAGES: one more",
        "TSS_ADDR_MAX: one more",
        "TSS: vendor not asked",
        "TSS: unrestricted guest not asked",
        "APIC access page: flexpriority taken for True",
        "APIC access page: avic taken for False",
        "APIC access page: once a vCPU",
        "identity map: tdp not asked",
        "address spaces: private memory not asked",
        "a foreign mm is answered",
    ),
}
"""Reason -> flips of checks, allocation and other rules."""

POLICY_FIELDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    UNREAD: {
        "always": ("warn_once",),
        "eager-5.16": ("warn_once",),
        "eager-6.6": ("warn_once",),
        "v1": ("warn_once",),
        "v2": ("warn_once",),
        "on-demand": ("warn_once",),
        "ideal": ("warn_once",),
    },
    SAME: {
        "eager-6.6": ("reference_first",),
        "v1": ("reference_first",),
        "v2": ("reference_first",),
        "on-demand": (
            "external term, CONFIG not asked",
            "reference_first",
        ),
        "ideal": (
            "external term, CONFIG not asked",
            "reference_first",
        ),
    },
    IDLE: {
        "always": (
            "has_ext_flag",
            "bug_when_disabled",
            "root_enables",
        ),
        "eager-5.16": ("external term, flag enough",),
        "eager-6.6": (
            "external term, flag enough",
            "bug_when_disabled",
            "root_enables",
        ),
        "v1": (
            "external term, flag enough",
            "has_ext_flag",
            "root_enables",
        ),
        "v2": ("has_ext_flag",),
    },
    NO_RECORDING: {
        "always": (
            "register_allocates",
            "register_checks_mm",
            "kvm_owns_node",
            "flush_slot",
            "opt_out",
            "reference_first",
        ),
        "eager-5.16": (
            "register_allocates",
            "bug_when_disabled",
            "opt_out",
        ),
        "v1": (
            "external term, CONFIG not asked",
            "register_allocates",
            "kvm_owns_node",
            "flush_slot",
            "bug_when_disabled",
            "needs_config",
        ),
        "v2": (
            "register_allocates",
            "kvm_owns_node",
            "flush_slot",
            "bug_when_disabled",
            "opt_out",
            "needs_config",
        ),
        "ideal": (
            "external term, always",
            "external term, flag not asked",
            "register_allocates",
            "register_checks_mm",
            "kvm_owns_node",
            "flush_slot",
            "bug_when_disabled",
            "opt_out",
            "needs_config",
        ),
    },
}
"""Reason -> policy -> its fields of which no recording notices when they are turned."""


def survivors() -> dict[str, str]:
    """Return every flip that survives with its reason."""
    found = {name: reason for reason, names in RULES.items() for name in names}
    for reason, rows in POLICY_FIELDS.items():
        found |= {f"policy {policy}: {field}": reason for policy, fields in rows.items() for field in fields}
    return found
