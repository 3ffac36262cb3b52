"""List the policies as result values, with what of a kernel is decided by its release alone."""

from itertools import product
from typing import Final

import attrs

from replay.events.base import ByFields, flag, text, values
from replay.kvm.policies import POLICIES, Policy

_PAGE_TRACK: Final = "arch/x86/kvm/mmu/page_track.c"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class PolicyReport(ByFields):
    """One policy: which kernels have it, and what its functions do."""

    name: str = text("name, as --lanes takes it", length_max=64)
    title: str = text("what it is", length_max=256)
    kernel: bool = flag("some kernel or patch does this; else it is a yardstick for bytes")
    kernels: str = text("kernels that have it", length_max=256)
    config: str = text("what CONFIG_KVM_EXTERNAL_WRITE_TRACKING changes", length_max=256)
    enabled_when: str = text("when write tracking is enabled", length_max=256)
    register_allocates: bool = flag("the first registration allocates the arrays of all slots")
    register_checks_mm: bool = flag("registration is -ESRCH from another mm, and holds a reference to the VM")
    move_with_notifier: str = text("what a memslot MOVE with a registered notifier does", length_max=128)
    tracking_when_disabled: str = text("what adding or removing a gfn does while not enabled", length_max=128)
    catalogue: str = text(
        "catalogue rows with a recording in which it is compared, separated by a comma", default="", length_max=512
    )
    note: str = text("what else to know", default="", length_max=512)
    source: str = text("kernel source", length_max=512)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ReleaseAxis(ByFields):
    """A behaviour that follows from the release whatever the policy is; a lane has it by its profile."""

    title: str = text("what changes", length_max=256)
    kernels: str = text("releases that have it", length_max=256)
    catalogue: str = text("catalogue row", length_max=64)
    source: str = text("kernel source", length_max=512)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class PoliciesReport(ByFields):
    """All policies that --lanes knows."""

    policies: tuple[PolicyReport, ...] = values("the policies, oldest first", PolicyReport, length_max=64)
    releases: tuple[ReleaseAxis, ...] = values("what the release decides under any policy", ReleaseAxis, length_max=64)


_RACES: Final = ("H1'", "H3", "H4")


def _rows_but(*left_out: int) -> tuple[str, ...]:
    return (*(f"D{number}" for number in range(1, 37) if number not in left_out), *_RACES)


# Rows of recordings/catalogue/ in whose recordings a lane has the policy.
CATALOGUE_ROWS: Final[dict[str, tuple[str, ...]]] = {
    "always": ("D1", "D23"),
    "eager-5.16": ("D1", "D14", "D17", "D23", "D27"),
    "eager-6.6": _rows_but(),
    "v1": ("D1", "D2", "D11", "D23", "D33"),
    "v2": ("D5", "D8", "D9", "D10", "D11"),
    "on-demand": _rows_but(33),
    "ideal": ("D1", "D2", "D23"),
}

AXES: Final[tuple[ReleaseAxis, ...]] = (
    ReleaseAxis(
        title="on-demand: registration for a TDX guest is -EOPNOTSUPP, after the check of the mm, before anything is allocated",
        kernels="6.16 and later",
        catalogue="D24",
        source=f'{_PAGE_TRACK} kvm_enable_external_write_tracking(), "Do not enable page track for TD guest"',
    ),
    ReleaseAxis(
        title="a gfn that is tracked in the other address space counts as tracked: reads look in both",
        kernels="6.1.187, 6.6.156, 6.12.108, 6.18.49 and later of their branches; 7.2 and later",
        catalogue="D35",
        source=(
            f'{_PAGE_TRACK} kvm_gfn_is_write_tracked(); 0f38453cdb2e ("KVM: x86/mmu: Check write tracking in all address spaces")'
        ),
    ),
)


def policies_report() -> PoliciesReport:
    """Return the policy table as result values."""
    return PoliciesReport(policies=tuple(_report(policy) for policy in POLICIES), releases=AXES)


def _report(policy: Policy) -> PolicyReport:
    return PolicyReport(
        name=policy.name,
        title=policy.title,
        kernel=policy.kernel,
        kernels=policy.kernels,
        config=policy.config,
        enabled_when=_enabled(policy),
        register_allocates=policy.register_allocates,
        register_checks_mm=policy.register_checks_mm,
        move_with_notifier="allowed, tracking is dropped" if policy.flush_slot else "-EINVAL",
        tracking_when_disabled="KVM_BUG_ON: the VM is dead" if policy.bug_when_disabled else "WARN, nothing happens",
        catalogue=", ".join(CATALOGUE_ROWS[policy.name]),
        note=policy.note,
        source=policy.source,
    )


_OPTION: Final = "CONFIG_KVM_EXTERNAL_WRITE_TRACKING=y"
_REST: Final = ", or a shadow root was loaded, or tdp is off"
# Answers for (option, flag of a registration, opt-out), as product() counts: 000, 001, .. 111.
_EXTERNAL_TERMS: Final = {
    (0, 0, 0, 0, 1, 1, 1, 1): f"{_OPTION}{_REST}",
    (0, 0, 0, 0, 0, 0, 1, 1): f"{_OPTION} and a notifier was registered{_REST}",
    (0, 0, 0, 0, 1, 0, 1, 0): f"{_OPTION} and the VM did not opt out{_REST}",
    (0, 0, 1, 1, 0, 0, 1, 1): f"a notifier was registered{_REST}",
    (1, 1, 1, 1, 1, 1, 1, 1): "always",
}


def _enabled(policy: Policy) -> str:
    """Say in words when write tracking is enabled, by asking the external term for every input."""
    inputs = product((False, True), repeat=3)
    return _EXTERNAL_TERMS[tuple(int(policy.external_term(*each)) for each in inputs)]  # type: ignore[index]  # eight inputs give eight answers
