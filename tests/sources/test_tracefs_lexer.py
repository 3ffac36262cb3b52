"""Promises of the block lexer of tracefs text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.errors import TraceSyntaxError
from replay.sources.tracefs_lexer import BLOCK_BYTES, TracefsLexer

PAGE = b"kvm_mmu_get_page: sp gen 0 gfn 8b0 l2 8-byte q0 wux nxe ad root 0 sync new\n"
LINE = b"         pdguest-15412   [000] ...1. 1795341862.263814: " + PAGE


class TestTracefsLexer:
    """Blocks of lines."""

    @given(st.lists(st.integers(0, 400), max_size=30))
    def test_any_chunks(self, sizes: list[int]) -> None:
        """However the bytes come in pieces, the lines are the same."""
        text = b"# tracer: nop\n" + LINE * 20 + b"tail"
        pieces, place = [], 0
        for size in sizes:
            pieces.append(text[place : place + size])
            place += size
        lexer = TracefsLexer([*pieces, text[place:]])
        assert [line for block in lexer for line in block.lines] == text.split(b"\n")
        assert lexer.cut

    def test_blocks_are_bounded(self) -> None:
        """A long trace is many blocks, numbered on."""
        count = 3 * BLOCK_BYTES // len(LINE)
        blocks = list(TracefsLexer([LINE * count]))
        assert len(blocks) >= 3
        assert sum(len(block.lines) for block in blocks) == count
        assert max(len(block.lines) for block in blocks) * len(LINE) <= BLOCK_BYTES + len(LINE)
        assert blocks[1].first_line == len(blocks[0].lines) + 1

    def test_no_line_ends(self) -> None:
        """Megabytes without a line end are refused."""
        with pytest.raises(TraceSyntaxError, match="line end"):
            list(TracefsLexer([b"x" * (1 << 20)] * 3))

    def test_nothing(self) -> None:
        """An empty input has no blocks."""
        assert list(TracefsLexer([])) == []
        assert list(TracefsLexer([b""])) == []
