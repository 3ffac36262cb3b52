"""List the policies as result values."""

import attrs

from replay.events.base import flag, text, values
from replay.kvm.policies import POLICIES, Policy


@attrs.frozen(kw_only=True)
class PolicyReport:
    """One policy: which kernels have it, and what its functions do."""

    name: str = text("name, as --lanes takes it", length_max=64)
    title: str = text("what it is", length_max=256)
    kernels: str = text("kernels that have it", length_max=256)
    enabled_when: str = text("when write tracking is enabled", length_max=256)
    register_allocates: bool = flag("the first registration allocates the arrays of all slots")
    register_checks_mm: bool = flag("registration is -ESRCH from another mm, and holds a reference to the VM")
    move_with_notifier: str = text("what a memslot MOVE with a registered notifier does", length_max=128)
    tracking_when_disabled: str = text("what adding or removing a gfn does while not enabled", length_max=128)
    source: str = text("kernel source", length_max=512)


@attrs.frozen(kw_only=True)
class PoliciesReport:
    """All policies that --lanes knows."""

    policies: tuple[PolicyReport, ...] = values("the policies, oldest first", PolicyReport, length_max=64)


def policies_report() -> PoliciesReport:
    """Return the policy table as result values."""
    return PoliciesReport(policies=tuple(_report(policy) for policy in POLICIES))


def _report(policy: Policy) -> PolicyReport:
    return PolicyReport(
        name=policy.name,
        title=policy.title,
        kernels=policy.kernels,
        enabled_when=f"{_external(policy)}, or a shadow root was loaded, or tdp is off",
        register_allocates=policy.register_allocates,
        register_checks_mm=policy.register_checks_mm,
        move_with_notifier="allowed, tracking is dropped" if policy.flush_slot else "-EINVAL",
        tracking_when_disabled="KVM_BUG_ON: the VM is dead" if policy.bug_when_disabled else "WARN, nothing happens",
        source=policy.source,
    )


def _external(policy: Policy) -> str:
    """Say the external term in words, by asking it for every input."""
    table = {(config, ext): policy.external_term(config, ext) for config in (False, True) for ext in (False, True)}
    words = {
        (False, False, True, True): "CONFIG_KVM_EXTERNAL_WRITE_TRACKING=y",
        (False, False, False, True): "CONFIG_KVM_EXTERNAL_WRITE_TRACKING=y and a notifier was registered",
        (True, True, True, True): "always",
    }
    return words[tuple(table.values())]  # type: ignore[index]  # four inputs give four answers
