"""Promise of the recordings: a rule of the model that is changed shows, in a real kernel's recording or in a golden report."""

from collections import Counter
from pathlib import Path

import pytest
from flips import Flip, Hand, Score, flipped, score, witnesses
from flips_of_memory import memory_flips
from flips_of_rules import rule_flips
from flips_of_tables import FLAGS, table_flips
from survivors import NO_RECORDING, survivors

from replay.kvm.memory_region import CHECKS
from replay.kvm.policies import ON_DEMAND, POLICIES

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "testing.md"


@pytest.fixture(scope="module")
def flips() -> list[Flip]:
    """Return all flips."""
    return [*table_flips(), *memory_flips(), *rule_flips()]


@pytest.fixture(scope="module")
def found(flips: list[Flip]) -> Score:
    """Return what came of all flips."""
    return score(flips)


def sentence(flips: list[Flip], found: Score) -> str:
    """Return the score in words, as docs/testing.md says it."""
    reasons = Counter(survivors()[name] for name in found.survivors)
    return (
        f"Of {len(flips)} flips {len(found.noticed)} are noticed; {len(found.survivors)} survive, "
        f"{reasons[NO_RECORDING]} of them because no recording covers them yet."
    )


@pytest.mark.slow
class TestRulesAreNoticed:
    """Every rule that can be told from another by what is recorded is held by a recording."""

    def test_survivors_are_those_that_are_explained(self, flips: list[Flip], found: Score) -> None:
        """Each flip is noticed, but for those of the table of survivors, and each of these survives."""
        assert sorted(found.survivors) == sorted(survivors())
        assert len(found.noticed) + len(found.survivors) == len(flips)
        assert set(found.noticed) | set(found.survivors) == {flip.name for flip in flips}

    def test_score_is_in_the_page(self, flips: list[Flip], found: Score) -> None:
        """docs/testing.md says the score and every reason why a flip survives."""
        print(sentence(flips, found))
        text = " ".join(PAGE.read_text().split())
        assert sentence(flips, found) in text
        assert [reason for reason in sorted(set(survivors().values())) if reason not in text] == []

    def test_kernels_and_catalogue_notice(self, found: Score) -> None:
        """Both kinds of recordings are needed: each is the first to notice some flips."""
        kernels = sum("/" in name for name in found.noticed.values())
        assert kernels > 100
        assert len(found.noticed) - kernels > 20


class TestFlips:
    """The flips are many, and leave nothing behind."""

    def test_every_row_and_field_is_flipped(self, flips: list[Flip]) -> None:
        """Each check is dropped and gets another errno, each policy has each of its flags turned; names are unique."""
        names = {flip.name for flip in flips}
        assert len(names) == len(flips)
        for row in CHECKS:
            assert {f"check dropped: {row.name}", f"check with another errno: {row.name}"} <= names
        assert len(FLAGS) == 10
        for policy in POLICIES:
            assert {f"policy {policy.name}: {flag}" for flag in FLAGS} <= names
            assert any(name.startswith(f"policy {policy.name}: external term") for name in names)

    def test_nothing_is_noticed_without_a_flip(self) -> None:
        """Every witness agrees with the model as it is."""
        asked = witnesses()
        assert len(asked) > 90
        assert [witness.name for witness in asked if witness.asked()] == []

    def test_a_flip_is_undone(self) -> None:
        """A frozen row is the same object with the same fields after a flip, also when something went wrong meanwhile."""
        before = ON_DEMAND.register_checks_mm

        def turn(hand: Hand) -> None:
            hand.field(ON_DEMAND, "register_checks_mm", not before)

        def fail() -> None:
            with flipped(Flip("turned", turn)):
                raise KeyError(ON_DEMAND.register_checks_mm)

        with pytest.raises(KeyError, match=str(not before)):
            fail()
        assert ON_DEMAND.register_checks_mm is before
