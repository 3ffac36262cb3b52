"""List the kernel policies: when write tracking is enabled, who allocates its arrays, and what its functions do.

A policy is a row of a table. The functions that model the kernel ask the row; they never ask for a release or a name. Which
row a kernel has is decided by (release, CONFIG_KVM_EXTERNAL_WRITE_TRACKING), never by the release alone.
"""

from collections.abc import Callable
from typing import Final

import attrs

from replay.errors import ProfileError
from replay.kvm.release import Release

# Source of the merge: commit a364c014a2c1 ("kvm/x86: allocate the write-tracking metadata on-demand"), Linux 6.9.
ON_DEMAND_SINCE: Final = (6, 9)
# Source: the page-track API rewrite, merge d011151616e7 ("KVM x86 MMU changes for 6.6"), Linux 6.6.
NEW_API_SINCE: Final = (6, 6)


@attrs.frozen(kw_only=True)
class Policy:
    """One way in which a kernel handles gfn_write_track. Source: the field `source` of each row.

    external_term: what an external user contributes to kvm_page_track_write_tracking_enabled(), given (CONFIG, ext flag);
    the other two terms, "not tdp" and "shadow root allocated", are the same in all rows from 5.16 on.
    """

    name: str
    title: str
    kernels: str
    source: str
    external_term: Callable[[bool, bool], bool]
    register_allocates: bool  # the first registration allocates arrays for all slots and sets the sticky flag
    register_checks_mm: bool  # kvm NULL or a foreign mm is ESRCH; takes a reference to the VM; can fail
    has_ext_flag: bool  # kvm->arch.external_write_tracking_enabled exists
    kvm_owns_node: bool  # KVM's own notifier is on every VM's list, which is therefore never empty
    flush_slot: bool  # notifiers' track_flush_slot runs on DELETE and MOVE before prepare; MOVE with a node is allowed
    bug_when_disabled: bool  # add/remove while not enabled: KVM_BUG_ON, the VM is dead; else WARN and nothing happens
    warn_once: bool  # a counter that would leave 0..65535 warns once per boot; else each time


EAGER_5_16: Final = Policy(
    name="eager-5.16",
    title="eager, API of 5.16-6.5: write tracking allocated with every memslot",
    kernels="5.16-6.5 with CONFIG_KVM_EXTERNAL_WRITE_TRACKING=y",
    source="arch/x86/kvm/mmu/page_track.c [6.1.192] kvm_page_track_write_tracking_enabled(), kvm_page_track_create_memslot()",
    external_term=lambda config, _ext: config,
    register_allocates=False,
    register_checks_mm=False,
    has_ext_flag=False,
    kvm_owns_node=True,
    flush_slot=True,
    bug_when_disabled=False,
    warn_once=False,
)
EAGER_6_6: Final = attrs.evolve(
    EAGER_5_16,
    name="eager-6.6",
    title="eager, API of 6.6-6.8: write tracking allocated with every memslot",
    kernels="6.6-6.8 with CONFIG_KVM_EXTERNAL_WRITE_TRACKING=y",
    source=(
        "arch/x86/kvm/mmu/page_track.c [6.8] kvm_page_track_write_tracking_enabled(); "
        'merge d011151616e7 ("KVM x86 MMU changes for 6.6")'
    ),
    register_checks_mm=True,
    kvm_owns_node=False,
    flush_slot=False,
    bug_when_disabled=True,
    warn_once=True,
)
ON_DEMAND: Final = attrs.evolve(
    EAGER_6_6,
    name="on-demand",
    title="on-demand, as merged: allocated by the first notifier registration or shadow root",
    kernels="6.9 and later with CONFIG_KVM_EXTERNAL_WRITE_TRACKING=y",
    source=(
        "arch/x86/kvm/mmu/page_track.c [6.12.117] kvm_enable_external_write_tracking(); "
        'a364c014a2c1 ("kvm/x86: allocate the write-tracking metadata on-demand", 6.9)'
    ),
    external_term=lambda config, ext: config and ext,
    register_allocates=True,
    has_ext_flag=True,
)

POLICIES: Final[tuple[Policy, ...]] = (EAGER_5_16, EAGER_6_6, ON_DEMAND)


def policy_for(release: Release) -> Policy:
    """Return the policy of a mainline release; CONFIG is an input of the policy's own expression.

    Raises ProfileError before 5.16. Source: see ON_DEMAND_SINCE and NEW_API_SINCE.
    """
    if release.at_least(*ON_DEMAND_SINCE):
        return ON_DEMAND
    if release.at_least(*NEW_API_SINCE):
        return EAGER_6_6
    if release.at_least(5, 16):
        return EAGER_5_16
    raise ProfileError(
        f"no policy is modelled for {release}",
        expected="5.16 or later",
        advice="name one with --lanes, see `kvm-replay policies`",
    )


def policy_named(name: str, release: Release) -> Policy:
    """Return the policy that a user calls by name; `eager` is the flavour that fits the release.

    Raises ProfileError with the names there are. Source: NEW_API_SINCE for the flavour.
    """
    if name == "eager":
        return EAGER_6_6 if release.at_least(*NEW_API_SINCE) else EAGER_5_16
    for policy in POLICIES:
        if name == policy.name:
            return policy
    known = ", ".join(["eager", *(policy.name for policy in POLICIES)])
    raise ProfileError(f"{name!r} is not a policy", expected=f"one of {known}, or a kernel release such as 6.8")
