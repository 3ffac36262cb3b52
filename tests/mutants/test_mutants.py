"""Promise of the mutants: each is one change of one kind, the same for the same seed, and spread over the files."""

import ast
from collections import Counter
from pathlib import Path

import pytest
from mutant_reach import ROOMS, ROOT
from mutant_run import table
from mutants import Mutant, mutants_of, mutated, sample

SOURCE = '''
"""Not changed: "text"."""
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    limit = 7
def f(pages: "int | 4", wide: bool = False) -> "3 + 4":
    """Not changed either."""
    assert pages, f"{1 + 1}"
    %s
'''
CASES = [
    ("x = pages < 5", {"x = pages <= 5", "x = pages < 6"}),
    ("x = pages and wide", {"x = pages or wide"}),
    ("x = pages * y", {"x = pages // y"}),
    ("x -= y", {"x += y", "pass"}),
    ("x = True", {"x = False"}),
    ("x = a if b else c", {"x = a if not b else c"}),
    ("x = [a for a in b if a]", {"x = [a for a in b if True]"}),
    ("x = not wide", {"x = not not wide"}),
    ("x = -y", {"x = +y"}),
    ("x = g(a, b)", {"x = g(b, a)"}),
    ("x = g(a, a)", set()),
    ("g(a)", {"pass"}),
    ("raise ValueError", {"pass"}),
    ("return x", {"return None"}),
    ("return None", set()),
    ("x: list[1] = y", set()),
    ("if a: pass\n    else: g(b)", {"if not a: pass\n    else: g(b)", "if a: pass\n    else: pass"}),
    ("if not a: pass", {"if not not a: pass"}),
    ("while True: break", {"while False: break", "while not True: break", "while True: continue"}),
    ("try: pass\n    finally: g(a)", {"try: pass\n    finally: pass"}),
]


def plain(text: str) -> str:
    """Return a source as the syntax tree would print it."""
    return ast.unparse(ast.parse(text))


class TestMutants:
    """What is changed, and what is not."""

    @pytest.mark.parametrize(("line", "changed"), CASES, ids=[line for line, _ in CASES])
    def test_changes(self, line: str, changed: set[str], tmp_path: Path) -> None:
        """A line has exactly these mutants besides the default's; texts, annotations and TYPE_CHECKING have none."""
        (tmp_path / "f.py").write_text(SOURCE % line)
        found = [ast.unparse(mutated(SOURCE % line, mutant)) for mutant in mutants_of(tmp_path, "f.py")]
        turned = plain(SOURCE % line).replace("bool=False", "bool=True")
        assert sorted(found) == sorted([turned, *(plain(SOURCE % text) for text in changed)])

    def test_each_mutant_is_another_program(self) -> None:
        """In a real file each mutant differs from the file and from all others, and compiles."""
        path = "replay/kvm/slots_by_gfn.py"
        source = (ROOT / path).read_text()
        mutants = mutants_of(ROOT, path)
        texts = {ast.unparse(mutated(source, mutant)) for mutant in mutants} | {plain(source)}
        assert len(texts) == len(mutants) + 1 > 30
        for text in texts:
            compile(text, path, "exec")

    def test_sample(self) -> None:
        """A sample is the same for the same seed, another for another, and takes of each file its share."""
        everything = [Mutant(path, number, "kind", number) for path in ("a", "b", "c") for number in range(200)]
        drawn = sample(everything, 60, 5)
        assert drawn == sample(everything, 60, 5)
        assert drawn != sample(everything, 60, 6)
        assert len(set(drawn)) == 60
        assert Counter(mutant.path for mutant in drawn) == {"a": 20, "b": 20, "c": 20}
        assert len(sample(everything, 1000, 5)) == 600

    def test_table(self) -> None:
        """The score is counted by room and in all; who has no room tried none."""
        results = [
            {"mutant": f"{ROOMS[0]}/a.py:1 x #1", "ending": "killed"},
            {"mutant": f"{ROOMS[0]}/a.py:2 x #2", "ending": "survived"},
            {"mutant": f"{ROOMS[2]}/b.py:1 x #1", "ending": "killed"},
        ]
        rows = [" ".join(line.split()[1:]) for line in table(results).splitlines()]
        assert rows == [
            "2 tried 1 killed 1 survived 50.0 %",
            "0 tried 0 killed 0 survived 0.0 %",
            "1 tried 1 killed 0 survived 100.0 %",
            "3 tried 2 killed 1 survived 66.7 %",
        ]
