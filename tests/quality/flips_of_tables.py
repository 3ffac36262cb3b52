"""Make the flips of tables: checks of a memslot request, dirty-log calls, the opt-out, and every field of every policy."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import attrs
from flips import Flip, Hand

from replay.kvm import ioctls, policies, write_tracking_cap
from replay.kvm.memory_region import CHECKS
from replay.kvm.policies import POLICIES, Policy
from replay.kvm.write_tracking_cap import OPT_OUT_CHECKS
from replay.units import EPERM

Term = Callable[[bool, bool, bool], bool]
WORLDS = tuple(itertools.product((False, True), repeat=3))
FLAGS = tuple(field.name for field in attrs.fields(Policy) if field.type is bool)
SINCE = ("ON_DEMAND_SINCE", "NEW_API_SINCE", "OPTION_SINCE")


def _replaced(table: tuple[Any, ...], index: int, *rows: Any) -> tuple[Any, ...]:
    return (*table[:index], *rows, *table[index + 1 :])


def checks() -> Iterator[Flip]:
    """Drop each check of a memslot request, let it answer another errno, and let it apply to every release."""
    for index, row in enumerate(CHECKS):
        other = attrs.evolve(row, errno=EPERM)
        yield Flip(f"check dropped: {row.name}", _everywhere(CHECKS, _replaced(CHECKS, index)))
        yield Flip(f"check with another errno: {row.name}", _everywhere(CHECKS, _replaced(CHECKS, index, other)))
        if row.applies.__name__ != "<lambda>" or row.name.startswith("REGION2"):
            always = attrs.evolve(row, applies=lambda _release: True)
            yield Flip(f"check on every release: {row.name}", _everywhere(CHECKS, _replaced(CHECKS, index, always)))
    for index, (row, below) in enumerate(itertools.pairwise(CHECKS)):
        if row.stage == below.stage and row.errno != below.errno:
            swapped = (*CHECKS[:index], below, row, *CHECKS[index + 2 :])
            yield Flip(f"check after the next one: {row.name}", _everywhere(CHECKS, swapped))


def _everywhere(old: object, new: object) -> Callable[[Hand], None]:
    return lambda hand: hand.everywhere(old, new)


def dirty_log_checks() -> Iterator[Flip]:
    """Drop each check of the two dirty-log calls, and let it answer another errno."""
    for name in ("GET_DIRTY_LOG_CHECKS", "CLEAR_DIRTY_LOG_CHECKS"):
        table = getattr(ioctls, name)
        call = name.removesuffix("_CHECKS")
        for index, (errno, refuses) in enumerate(table):
            place = f"{call} row {index + 1} ({errno})"
            other = _replaced(table, index, (EPERM, refuses))
            yield Flip(
                f"check dropped: {place}", functools.partial(Hand.put, owner=ioctls, name=name, value=_replaced(table, index))
            )
            yield Flip(f"check with another errno: {place}", functools.partial(Hand.put, owner=ioctls, name=name, value=other))


def opt_out_checks() -> Iterator[Flip]:
    """Drop each check of the opt-out of v1, let it answer another errno, and ask it whatever the configuration."""
    put = functools.partial(Hand.put, owner=write_tracking_cap, name="OPT_OUT_CHECKS")
    for index, row in enumerate(OPT_OUT_CHECKS):
        other = attrs.evolve(row, errno=EPERM)
        elsewhere = attrs.evolve(row, with_config=not row.with_config)
        yield Flip(f"opt-out check dropped: {row.name}", functools.partial(put, value=_replaced(OPT_OUT_CHECKS, index)))
        yield Flip(
            f"opt-out check with another errno: {row.name}", functools.partial(put, value=_replaced(OPT_OUT_CHECKS, index, other))
        )
        yield Flip(
            f"opt-out check under another configuration: {row.name}",
            functools.partial(put, value=_replaced(OPT_OUT_CHECKS, index, elsewhere)),
        )


def _truth(term: Term) -> tuple[bool, ...]:
    return tuple(term(*world) for world in WORLDS)


def other_terms(term: Term) -> dict[str, Term]:
    """Return changed external terms by what is changed; those that say the same as the term, or as another, are left out."""
    made: dict[str, Term] = {
        "always": lambda *_: True,
        "never": lambda *_: False,
        "CONFIG not asked": lambda _config, ext, disabled: term(True, ext, disabled),
        "flag not asked": lambda config, _ext, disabled: term(config, True, disabled),
        "flag enough": lambda config, ext, disabled: term(config, ext, disabled) or ext,
        "opt-out not asked": lambda config, ext, _disabled: term(config, ext, False),
    }
    known, kept = {_truth(term)}, {}
    for name, other in made.items():
        if _truth(other) not in known:
            known.add(_truth(other))
            kept[name] = other
    return kept


def policy_rows() -> Iterator[Flip]:
    """Change the external term of every policy, and turn every flag of it."""
    for policy in POLICIES:
        for how, term in other_terms(policy.external_term).items():
            change = functools.partial(Hand.field, row=policy, name="external_term", value=term)
            yield Flip(f"policy {policy.name}: external term, {how}", change, policy=policy.name)
        for flag in FLAGS:
            change = functools.partial(Hand.field, row=policy, name=flag, value=not getattr(policy, flag))
            # needs_config decides whether there is a lane: that is to be asked of recordings without one
            yield Flip(f"policy {policy.name}: {flag}", change, policy="" if flag == "needs_config" else policy.name)


def releases() -> Iterator[Flip]:
    """Let each policy begin a minor release later and earlier."""
    for name in SINCE:
        major, minor = getattr(policies, name)
        for step in (1, -1):
            change = functools.partial(Hand.put, owner=policies, name=name, value=(major, minor + step))
            yield Flip(f"policy since {major}.{minor + step} instead of {major}.{minor}", change)


def table_flips() -> list[Flip]:
    """Return the flips of all tables."""
    return [*checks(), *dirty_log_checks(), *opt_out_checks(), *policy_rows(), *releases()]
