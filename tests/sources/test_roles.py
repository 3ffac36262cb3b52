"""Promises of the table of role bits."""

import attrs
import pytest

from replay.runs import ACCOUNT, UNACCOUNT
from replay.sources.roles import ROLE_BITS, Role, accounts, field, role_of

WORD = 0x3702
"""A page of a guest's level 2 table, as a kernel with shadow paging makes it: access wux, efer_nx, cr0_wp."""


class TestBits:
    """The word's fields."""

    def test_they_are_the_whole_word(self) -> None:
        """Each of the 32 bits belongs to exactly one field."""
        bits = [bit for shift, width in ROLE_BITS.values() for bit in range(shift, shift + width)]
        assert sorted(bits) == list(range(32))

    @pytest.mark.parametrize("name", ROLE_BITS)
    def test_each_field_alone(self, name: str) -> None:
        """A word with all bits of one field has that field full and all others empty."""
        shift, width = ROLE_BITS[name]
        full = (1 << width) - 1
        assert {other: field(full << shift, other) for other in ROLE_BITS} == {
            other: full if other == name else 0 for other in ROLE_BITS
        }

    @pytest.mark.parametrize("bit", range(32))
    def test_each_bit(self, bit: int) -> None:
        """Each bit changes what it stands for in the decoded role, and nothing else."""
        before, after = role_of(WORD), role_of(WORD ^ (1 << bit))
        name = next(name for name, (shift, width) in ROLE_BITS.items() if shift <= bit < shift + width)
        assert before == Role(level=2, direct=False, invalid=False, guest_mode=False, passthrough=False, as_id=0)
        if name == "level":
            expected = {0: 3, 1: None, 2: None, 3: None}[bit]  # 2 with one bit turned: 3, 0, 6, 10
            assert (after.level if after else None) == expected
        elif name == "smm":
            assert (after.as_id if after else None) == (1 if bit == 24 else None)
        elif name in {"direct", "invalid", "guest_mode", "passthrough"}:
            assert after is not None
            assert [a.name for a in attrs.fields(Role) if getattr(before, a.name) != getattr(after, a.name)] == [name]
        else:
            assert after == before

    @pytest.mark.parametrize("word", [0, 6, 15, -1, 1 << 32 | 4, 0x02003704])
    def test_no_word_of_kvm(self, word: int) -> None:
        """A word without a level, with a third address space or with more than 32 bits is none."""
        assert role_of(word) is None


class TestAccounts:
    """Which pages count."""

    @pytest.mark.parametrize("direct", [False, True])
    @pytest.mark.parametrize("passthrough", [False, True])
    @pytest.mark.parametrize("invalid", [False, True])
    @pytest.mark.parametrize("made", [False, True])
    def test_every_case(self, *, direct: bool, passthrough: bool, invalid: bool, made: bool) -> None:
        """Neither direct nor passthrough; a zap only when the page was valid before it."""
        role = Role(level=4, direct=direct, invalid=invalid, guest_mode=False, passthrough=passthrough, as_id=0)
        expected = 0 if direct or passthrough else ACCOUNT if made else 0 if invalid else UNACCOUNT
        assert accounts(role, made=made) == expected
