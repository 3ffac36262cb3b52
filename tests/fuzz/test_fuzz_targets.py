"""Hold every reader and importer to its promise on any bytes: what earlier fuzzing found, numbers out of range, and mutations.

`fuzz.py` here does the same with coverage to guide it, for as long as one likes; see README.md.
"""

import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz_seeds import CORPUS, seeds
from fuzz_targets import TARGETS, Target, imported, jsonl, kvmr
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.events import Mark
from replay.header import Header
from replay.stream import MemoryStream

FINDS = sorted(path for path in CORPUS.rglob("*") if path.is_file())
SEEDS = {name: list(seeds(name)) for name in TARGETS}
NUMBER = re.compile(rb"(?:0x)?[0-9a-f]*\d[0-9a-f]*")
EDGES = [
    b"0", b"-1", b"010", b"1.5", b"4294967295", b"4294967296", b"9223372036854775807", b"9223372036854775808",
    b"18446744073709551615", b"18446744073709551616", b"0x10000000000000000", b"9" * 40, b"9" * 5000,
]  # fmt: skip
"""Numbers at and beyond the width of each field, and beyond what the language turns into an integer unasked."""
TOKENS = [
    b"<unfinished ...>", b" resumed>", b"= ?", b"= -1 ENOMEM (Cannot allocate memory)", b"<anon_inode:kvm-vm>", b"NULL", b"|",
    b"{", b"}", b"[", b"]", b'"', b"\n", b"\r\n", b"\x00", b"\xff", b"kvm_mmu_get_page", b"CPU:0 [LOST 1 EVENTS]", b"clone(",
    b"close(",
]  # fmt: skip


class TestFinds:
    """What was found once is not found again."""

    @pytest.mark.parametrize("path", FINDS, ids=lambda path: f"{path.parent.name}-{path.name}")
    def test_find(self, path: Path) -> None:
        """Each find goes through its target, and through all others."""
        for target in TARGETS.values():
            target(path.read_bytes())

    def test_each_has_its_target(self) -> None:
        """The folders of the corpus are targets, and there is something in them."""
        assert {path.parent.name for path in FINDS} <= set(TARGETS)
        assert len(FINDS) >= 3

    @pytest.mark.parametrize("name", [name for name in TARGETS if name != "lab"])
    def test_seeds(self, name: str) -> None:
        """There are seeds for each target, and they go through it."""
        assert SEEDS[name]
        for data in SEEDS[name][:20]:
            TARGETS[name](data)


class TestNumbers:
    """A number that no field holds is an error, or counted, never an escape."""

    @pytest.mark.parametrize("name", [name for name in TARGETS if name not in {"kvmr", "mended", "lab", "index"}])
    def test_edges(self, name: str) -> None:
        """Numbers of the seeds replaced by those at the edges, drawn with a fixed seed."""
        tried = 0
        for data in self.replaced(SEEDS[name], 1500):
            TARGETS[name](data)
            tried += 1
        assert tried == 1500

    @staticmethod
    def replaced(texts: list[bytes], count: int) -> Iterator[bytes]:
        """Yield texts with one number replaced."""
        dice = random.Random(5)
        for _ in range(count):
            text = dice.choice(texts)
            places = [match.span() for match in NUMBER.finditer(text)]
            start, end = dice.choice(places)
            yield text[:start] + dice.choice(EDGES) + text[end:]


class TestMutations:
    """Pieces replaced, doubled, moved and cut out raise nothing but errors of ours."""

    @pytest.mark.parametrize("name", TARGETS)
    @settings(max_examples=250, deadline=None)
    @given(data=st.data())
    def test_edited(self, name: str, data: st.DataObject) -> None:
        """Each target, from its seeds and from nothing."""
        text = bytearray(data.draw(st.sampled_from([b"", *SEEDS[name]])))
        for _ in range(data.draw(st.integers(1, 5))):
            start = data.draw(st.integers(0, len(text)))
            end = min(len(text), start + data.draw(st.sampled_from([0, 0, 1, 2, 8, 40, 300])))
            doubled = st.just(bytes(text[start:end]) * 2)
            text[start:end] = data.draw(st.binary(max_size=8) | st.sampled_from([*TOKENS, *EDGES]) | doubled)
        TARGETS[name](bytes(text))

    @settings(max_examples=500, deadline=None)
    @given(st.sampled_from(sorted(TARGETS)), st.binary(max_size=400))
    def test_any_bytes(self, name: str, data: bytes) -> None:
        """And from nothing but bytes."""
        TARGETS[name](data)


MANY = int(os.environ.get("KVM_REPLAY_FUZZ", "5000"))
"""Plain mutations over all targets; `.ci/run` asks for a hundred thousand."""
SHARES = {
    "jsonl": 20,
    "mended": 20,
    "kvmr": 15,
    "golden": 15,
    "index": 10,
    "lab": 8,
    "strace": 4,
    "tracefs": 4,
    "any": 2,
    "merged": 2,
}
"""How many of a hundred each target gets: readers of files more than importers, which take longer for each."""


def mutated(dice: random.Random, seeds_of_target: list[bytes]) -> bytes:
    """Return a seed with some bytes changed, put in, doubled or cut out, or with a piece of another seed in it."""
    text = bytearray(dice.choice(seeds_of_target))
    for _ in range(dice.choice((1, 1, 2, 4))):
        start = dice.randrange(len(text) + 1)
        end = min(len(text), start + dice.choice((0, 1, 1, 2, 8, 40)))
        other = dice.choice(seeds_of_target)
        cut = dice.randrange(len(other) + 1)
        piece = (
            dice.randbytes(end - start),
            text[start:end] * 2,
            b"",
            dice.choice(TOKENS),
            dice.choice(EDGES),
            other[cut : cut + 40],
        )
        text[start:end] = dice.choice(piece)
    return bytes(text)


class TestMany:
    """Many cheap mutations, drawn with a fixed seed."""

    @pytest.mark.parametrize("name", TARGETS)
    def test_many(self, name: str) -> None:
        """Each target takes its share."""
        dice, texts, tried = random.Random(name), [b"", *(data for data in SEEDS[name] if len(data) < 4096)], 0
        for _ in range(MANY * SHARES[name] // 100):
            TARGETS[name](mutated(dice, texts))
            tried += 1
        assert tried >= MANY // 100

    def test_shares(self) -> None:
        """All shares together are all."""
        assert set(SHARES) == set(TARGETS)
        assert sum(SHARES.values()) == 100


class TestTheTargets:
    """The targets can complain."""

    def test_not_writable(self) -> None:
        """An import that no recording can hold is found."""
        with pytest.raises(AssertionError, match=r"can not be written: event 0, mark\.time_ns"):
            imported(MemoryStream(Header(), [Mark(text="x", time_ns=1 << 63)]))

    def test_disagreement(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A verdict of verify that the reader does not share is found."""
        import fuzz_targets

        from replay.soundness import Soundness

        monkeypatch.setattr(fuzz_targets, "verify", lambda _stream: Soundness(name="", state="sound", events=7))
        for target in (kvmr, jsonl):
            with pytest.raises(AssertionError):
                target(b"nonsense")

    def test_escape(self) -> None:
        """An exception that is not ours comes out of a target."""

        def broken(_data: bytes) -> None:
            raise IndexError

        targets: dict[str, Target] = {"broken": broken}
        with pytest.raises(IndexError):
            targets["broken"](b"")
