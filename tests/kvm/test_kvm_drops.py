"""Promises of counters that several lanes drop within one event."""

from replay.kvm.counters import Counters
from replay.kvm.leaves import Table

GFNS = (3, 511, 512, 700, 1 << 20)


def sharers(table: Table, count: int) -> list[Counters]:
    """Return counters that share what they count."""
    lead = Counters(table)
    for gfn in GFNS:
        lead[gfn] = gfn % 7 + 1
    made = [lead, *(Counters(table) for _ in range(count - 1))]
    for one in made[1:]:
        one.share(lead)
    return made


class TestDropWhatWaits:
    """Drops of one event, put off until all lanes have taken it."""

    def test_all_sharers(self) -> None:
        """What every sharer drops is dropped once, and they share on."""
        table = Table("I")
        made = sharers(table, 3)
        table.waiting = []
        for one in made:
            one.drop(500, 700)
        assert [list(one) for one in made] == [list(GFNS)] * 3
        table.drop_what_waits()
        assert [list(one) for one in made] == [[3, 700, 1 << 20]] * 3
        assert {id(one.roots) for one in made} == {id(made[0].roots)}
        assert made[0].roots.owners == 3

    def test_some_sharers(self) -> None:
        """Who drops while another sharer does not, or drops something else, gets counters of its own."""
        table = Table("I")
        made = sharers(table, 3)
        table.waiting = []
        made[0].drop(0, 4)
        made[1].drop(0, 512)
        table.drop_what_waits()
        assert [list(one) for one in made] == [[511, 512, 700, 1 << 20], [512, 700, 1 << 20], list(GFNS)]
        assert len({id(one.roots) for one in made}) == 3

    def test_nothing_there(self) -> None:
        """A range without counters costs no copy."""
        table = Table("I")
        made = sharers(table, 2)
        table.waiting = []
        made[0].drop(4, 500)
        table.drop_what_waits()
        assert made[0].roots is made[1].roots

    def test_at_once(self) -> None:
        """Outside of such an event a drop takes effect at once, at any edge of leaves and beyond the range."""
        for first, end in ((0, 1 << 30), (3, 4), (4, 511), (511, 513), (513, 700), (1 << 20, (1 << 20) + 1)):
            one, other = sharers(Table("I"), 2)
            one.drop(first, end)
            assert list(one) == [gfn for gfn in GFNS if not first <= gfn < end]
            assert list(other) == list(GFNS)
