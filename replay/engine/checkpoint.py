"""Write lanes down as bytes, and make them again: a checkpoint, from which a replay goes on as if it had come from the start.

Bytes are MessagePack, compressed; equal states give equal bytes. A lane belongs to a checkpoint when its policy, its profile and
what it leaves out are the ones that were written: `identity_of()`. Lanes are independent of one another, so that any of those
that were written can be made again without the others. Nothing here knows where checkpoints are kept, or checks for damage.
"""

import hashlib
import struct
import zlib
from collections.abc import Sequence
from itertools import product
from typing import Any, Final

import attrs
import msgpack

from replay.engine.agreement import share_tables
from replay.engine.lane import Disagreement, Lane
from replay.kvm.plain import Plain, Shelf, plain_of_machine, restore_machine
from replay.kvm.policies import Policy

DISAGREEMENT_PLAIN: Final = tuple(field.name for field in attrs.fields(Disagreement))
Identity = tuple[Any, ...]
KEY_BYTES: Final = 16
_TERM_INPUTS: Final = tuple(product((False, True), repeat=3))
ZLIB_LEVEL: Final = 6
"""A tenth smaller than by level 1, for some milliseconds; smaller checkpoints may be closer to one another."""

STATE_BYTES_MAX: Final = 256 << 20
"""Most bytes of a state, inflated: some hundred million counters. A larger one is no checkpoint of ours but a bomb."""

_MISFITS: Final = (
    TypeError,
    ValueError,
    KeyError,
    IndexError,
    AssertionError,
    AttributeError,
    OverflowError,
    struct.error,
    zlib.error,
)
"""What reading values of another form raises."""


class MisfitError(Exception):
    """Bytes that are no checkpoint of these lanes; whoever keeps checkpoints drops them."""


def _inflated(checkpoint: bytes) -> bytes:
    """Return what is in a checkpoint; raise ValueError when it is too large or goes on behind its end."""
    inflater = zlib.decompressobj()
    state = inflater.decompress(checkpoint, STATE_BYTES_MAX)
    if not inflater.eof or inflater.unused_data:
        raise ValueError(f"more than {STATE_BYTES_MAX} bytes, or not whole")
    return state


def identity_of(lane: Lane) -> Identity:
    """Return what a lane is, whatever it is called: lanes of one identity make the same of the same events."""
    facts = tuple(lane.profile.facts().items())
    return (lane.policy.name, rules_of(lane.policy), facts, lane.factual, lane.left_out)


def rules_of(policy: Policy) -> tuple[bool, ...]:
    """Return every answer that a policy gives: a user's file keeps its name when it is changed."""
    values = (getattr(policy, field.name) for field in attrs.fields(Policy))
    return (
        *(value for value in values if isinstance(value, bool)),
        *(policy.external_term(*inputs) for inputs in _TERM_INPUTS),
    )


def key_of(lane: Lane) -> str:
    """Return a digest of `identity_of()`."""
    packed: bytes = msgpack.packb(identity_of(lane))
    return hashlib.blake2b(packed, digest_size=KEY_BYTES).hexdigest()


def checkpoint_of(lanes: Sequence[Lane]) -> bytes:
    """Return the state of lanes between two events. Cost: proportional to slots and counters that are not zero."""
    shelf = Shelf()
    states = tuple((identity_of(lane), _plain_of_lane(lane), plain_of_machine(lane.machine, shelf)) for lane in lanes)
    packed: bytes = msgpack.packb((states, tuple(shelf.contents)), use_bin_type=True)
    return zlib.compress(packed, ZLIB_LEVEL)


def restore(lanes: Sequence[Lane], checkpoint: bytes, *, to_go: int = 0) -> None:
    """Make lanes that have seen nothing what they were at a checkpoint; to_go: how many events are to follow, if known.

    Raises MisfitError, and the lanes are of no use any more, when it does not hold them all or is no checkpoint.
    """
    try:
        states, contents = msgpack.unpackb(_inflated(checkpoint), use_list=False)
        known = {identity: (own, machine) for identity, own, machine in states}
        shelf = Shelf(contents)
        share_tables(lanes)
        for lane in lanes:
            own, machine = known[identity_of(lane)]
            _restore_lane(lane, own)
            restore_machine(lane.machine, machine, shelf)
            lane.machine.hot_rows = to_go  # so that numpy is asked at once when it is worth it
    except (*_MISFITS, msgpack.UnpackException) as error:
        raise MisfitError(f"{type(error).__name__}: {error}") from error


def _plain_of_lane(lane: Lane) -> Plain:
    disagreements = tuple(tuple(getattr(one, name) for name in DISAGREEMENT_PLAIN) for one in lane.disagreements)
    return (lane.disagreement_count, tuple(lane.unattributed), disagreements, tuple(sorted(lane.skipped.items())))


def _restore_lane(lane: Lane, plain: Plain) -> None:
    lane.disagreement_count, unattributed, disagreements, skipped = plain
    lane.unattributed = list(unattributed)
    lane.disagreements = [Disagreement(*one) for one in disagreements]
    lane.skipped = dict(skipped)
