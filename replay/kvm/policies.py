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
# Source: gfn_track allocated only when needed, and the option CONFIG_KVM_EXTERNAL_WRITE_TRACKING, Linux 5.16.
OPTION_SINCE: Final = (5, 16)
MODELLED_SINCE: Final = (5, 0)


@attrs.frozen(kw_only=True)
class Policy:
    """One way in which a kernel handles gfn_write_track. Source: the field `source` of each row.

    external_term: what external users contribute to kvm_page_track_write_tracking_enabled(), given (CONFIG, flag that a first
    registration sets, opt-out of the VM); the other two terms, "not tdp" and "shadow root allocated", are in all rows.
    """

    name: str
    title: str
    kernels: str
    config: str  # what CONFIG_KVM_EXTERNAL_WRITE_TRACKING changes
    source: str
    note: str = ""
    external_term: Callable[[bool, bool, bool], bool]
    register_checks_mm: bool  # kvm NULL or a foreign mm is ESRCH; takes a reference to the VM; can fail
    has_ext_flag: bool  # the first registration sets kvm->arch.external_write_tracking_enabled (v2: page_write_tracking_enabled)
    flush_slot: bool  # notifiers' track_flush_slot runs on DELETE and MOVE before prepare; MOVE with a node is allowed
    bug_when_disabled: bool  # add/remove while not enabled: KVM_BUG_ON, the VM is dead; else WARN and nothing happens
    opt_out: bool = False  # KVM_CAP_PAGE_WRITE_TRACKING lets a VM do without external write tracking
    root_enables: bool = False  # a first shadow root sets the flag too, all write tracking before any rmap
    reference_first: bool = False  # register takes its reference to the VM before it allocates, and drops it on failure
    needs_config: bool = False  # does not link without the option
    at_first_add: bool = False  # a slot gets its array when its first gfn is tracked, never before; this can not fail
    kernel: bool = True  # some kernel or patch does this; else it is a yardstick

    @property
    def register_allocates(self) -> bool:
        """Whether the first registration allocates arrays for all slots: where it sets a flag, as the flag promises them."""
        return self.has_ext_flag and not self.at_first_add

    @property
    def kvm_owns_node(self) -> bool:
        """Whether KVM's own notifier is on every VM's list, which is therefore never empty: its flush_slot zaps shadow pages.

        Source: arch/x86/kvm/mmu/mmu.c kvm_mmu_init_vm(), kvm_mmu_invalidate_zap_pages_in_memslot() [6.1].
        """
        return self.flush_slot


_CONFIG_DECIDES: Final = "=n leaves only shadow paging: then like on-demand"

EAGER_5_16: Final = Policy(
    name="eager-5.16",
    title="eager, API of 5.16-6.5: write tracking allocated with every memslot",
    kernels="5.16-6.5 with CONFIG_KVM_EXTERNAL_WRITE_TRACKING=y",
    config=_CONFIG_DECIDES,
    source="arch/x86/kvm/mmu/page_track.c [6.1.192] kvm_page_track_write_tracking_enabled(), kvm_page_track_create_memslot()",
    note="5.16 and 5.17 allocate with kvcalloc(), which may take kmalloc memory: costs are those of __vcalloc() [5.18]",
    external_term=lambda config, _ext, _disabled: config,
    register_checks_mm=False,
    has_ext_flag=False,
    flush_slot=True,
    bug_when_disabled=False,
)
ALWAYS: Final = attrs.evolve(
    EAGER_5_16,
    name="always",
    title="always: write tracking allocated with every memslot, whatever the configuration",
    kernels="before 5.16",
    config="the option does not exist yet",
    source=(
        "arch/x86/kvm/mmu/page_track.c [before 5.16] kvm_page_track_create_memslot(): no predicate is asked, as the change that "
        "brought it shows (allocation of gfn_track only when needed, 5.16)"
    ),
    note=(
        "kvcalloc() era: small arrays are kmalloc memory and do not show in /proc/vmallocinfo, costs are those of __vcalloc() "
        "[5.18]; memslots follow the rules of 5.17 and later. Read from patches, no such tree was at hand"
    ),
    external_term=lambda _config, _ext, _disabled: True,
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
    note="",
    register_checks_mm=True,
    flush_slot=False,
    bug_when_disabled=True,
)
# Source: "kvm/x86: add capability to disable the write-track mechanism", v1 of the series, 2024-02-05, on 6.8-rc.
V1: Final = attrs.evolve(
    EAGER_6_6,
    name="v1",
    title="v1, a capability: eager, but a VM may opt out before it has memslots",
    kernels="no release: first version of the patch, February 2024, on 6.8-rc",
    config="=n: the capability is answered with success and changes nothing",
    source=(
        "v1 of the series that became a364c014a2c1: arch/x86/kvm/x86.c kvm_vm_ioctl_enable_cap(KVM_CAP_PAGE_WRITE_TRACKING), "
        "arch/x86/kvm/mmu/page_track.c KVM_EXTERNAL_WRITE_TRACKING_ENABLED(), kvm_page_track_register_notifier()"
    ),
    note=(
        "its number, 236, is KVM_CAP_PRE_FAULT_MEMORY in 6.11 and later, which can not be enabled: only the policy tells the two "
        "apart"
    ),
    external_term=lambda config, _ext, disabled: config and not disabled,
    opt_out=True,
)
ON_DEMAND: Final = attrs.evolve(
    EAGER_6_6,
    name="on-demand",
    title="on-demand, as merged (v3): allocated by the first notifier registration or shadow root",
    kernels="6.9 and later with CONFIG_KVM_EXTERNAL_WRITE_TRACKING=y",
    config="=n: nothing can be registered, so only a shadow root allocates; the same as eager then",
    source=(
        "arch/x86/kvm/mmu/page_track.c [6.12.117] kvm_enable_external_write_tracking(); "
        'a364c014a2c1 ("kvm/x86: allocate the write-tracking metadata on-demand", 6.9)'
    ),
    external_term=lambda config, ext, _disabled: config and ext,
    has_ext_flag=True,
)
# Source: "kvm/x86: allocate the write-tracking metadata on-demand", v2 of the series, 2024-02-06, on 6.8-rc.
V2: Final = attrs.evolve(
    ON_DEMAND,
    name="v2",
    title="v2, one flag: the first registration or shadow root allocates all write tracking, before any rmap",
    kernels="no release: second version of the patch, February 2024, on 6.8-rc",
    config="=n does not link: mmu.c calls what is compiled out",
    source=(
        "v2 of the series that became a364c014a2c1: arch/x86/kvm/mmu/page_track.c kvm_page_track_write_tracking_enable(), "
        "arch/x86/kvm/mmu/mmu.c mmu_first_shadow_root_alloc()"
    ),
    note="never built or run: the symbol that /proc/vmallocinfo would show is not known, arrays stand under those of on-demand",
    external_term=lambda _config, ext, _disabled: ext,
    root_enables=True,
    reference_first=True,
    needs_config=True,
)
IDEAL: Final = attrs.evolve(
    ON_DEMAND,
    name="ideal",
    title="ideal, a lower bound: write tracking only for memslots in which a gfn was tracked",
    kernels="no kernel: what the recording really needed",
    source="none: results are those of on-demand [6.12.117], an array is made by the first add in its memslot and goes with it",
    note=(
        "a yardstick for bytes: it never runs out of memory for write tracking and charges nobody, so its results are not held "
        "against a kernel's"
    ),
    at_first_add=True,
    kernel=False,
)

POLICIES: Final[tuple[Policy, ...]] = (ALWAYS, EAGER_5_16, EAGER_6_6, V1, V2, ON_DEMAND, IDEAL)


def policy_for(release: Release) -> Policy:
    """Return the policy of a mainline release; CONFIG is an input of the policy's own expression.

    Raises ProfileError before 5.0. Source: see ON_DEMAND_SINCE, NEW_API_SINCE and OPTION_SINCE.
    """
    if release.at_least(*ON_DEMAND_SINCE):
        return ON_DEMAND
    if release.at_least(*NEW_API_SINCE):
        return EAGER_6_6
    if release.at_least(*OPTION_SINCE):
        return EAGER_5_16
    if release.at_least(*MODELLED_SINCE):
        return ALWAYS
    raise ProfileError(
        f"no policy is modelled for {release}",
        expected="5.0 or later",
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


def unbuildable(policy: Policy, *, config: bool) -> str:
    """Return why no kernel of this policy can be built under a configuration, "" when it can.

    Source: v2 of the series: mmu.c calls kvm_page_track_write_tracking_enable(), which stands inside the option's #ifdef.
    """
    if policy.needs_config and not config:
        return f"{policy.name} does not link with CONFIG_KVM_EXTERNAL_WRITE_TRACKING=n: mmu.c calls what is compiled out"
    return ""
