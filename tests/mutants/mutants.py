"""Change one thing in a module's syntax tree: the mutants whose death tests/mutants/mutant_run.py asks for.

Strings, annotations and docstrings are left alone: no promise hangs on a message's words but those that tests name themselves.
"""

import ast
import copy
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

Change = Callable[[], Any]
"""Alters the tree it was made for, in place."""
Offer = tuple[str, Change]

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}


@attrs.frozen
class Mutant:
    """One change: in which file (relative to the project), at which line, of which kind, and its number among the file's."""

    path: str
    line: int
    kind: str
    number: int

    @property
    def name(self) -> str:
        """Return what the mutant is called in reports."""
        return f"{self.path}:{self.line} {self.kind} #{self.number}"


def compared(node: ast.Compare) -> Iterator[Offer]:
    """Offer each comparison as its neighbour or opposite."""
    for place, op in enumerate(node.ops):
        other = COMPARISONS[type(op)]
        yield f"{type(op).__name__} to {other.__name__}", partial(node.ops.__setitem__, place, other())


def joined(node: ast.BoolOp) -> Iterator[Offer]:
    """Offer `and` as `or` and the other way round."""
    other = ast.Or if isinstance(node.op, ast.And) else ast.And
    yield f"to {other.__name__}", partial(setattr, node, "op", other())


def calculated(node: ast.BinOp | ast.AugAssign) -> Iterator[Offer]:
    """Offer an arithmetic operator as its opposite."""
    other = OPERATORS.get(type(node.op))
    if other is not None:
        yield f"{type(node.op).__name__} to {other.__name__}", partial(setattr, node, "op", other())


def counted(node: ast.Constant) -> Iterator[Offer]:
    """Offer a number as the next one, and a truth value as the other."""
    if isinstance(node.value, bool):
        yield f"{node.value} turned", partial(setattr, node, "value", not node.value)
    elif isinstance(node.value, int):
        yield "number plus one", partial(setattr, node, "value", node.value + 1)


def asked(node: ast.If | ast.While | ast.IfExp) -> Iterator[Offer]:
    """Offer a condition as its opposite, but for those that are offered as a comparison or without their `not` already."""
    if not isinstance(node.test, ast.Compare | ast.UnaryOp):
        yield "condition negated", partial(setattr, node, "test", ast.UnaryOp(ast.Not(), node.test))


def sifted(node: ast.comprehension) -> Iterator[Offer]:
    """Offer a comprehension without each of its conditions."""
    for place in range(len(node.ifs)):
        yield "filter dropped", partial(node.ifs.__setitem__, place, ast.Constant(value=True))


def denied(node: ast.UnaryOp) -> Iterator[Offer]:
    """Offer `not x` as `x`, `-x` as `+x`."""
    if isinstance(node.op, ast.Not):
        yield "not removed", partial(setattr, node, "operand", ast.UnaryOp(ast.Not(), node.operand))
    elif isinstance(node.op, ast.USub):
        yield "minus removed", partial(setattr, node, "op", ast.UAdd())


def called(node: ast.Call) -> Iterator[Offer]:
    """Offer a call with its first two arguments swapped."""
    plain = len(node.args) > 1 and not any(isinstance(each, ast.Starred) for each in node.args[:2])
    if plain and ast.dump(node.args[0]) != ast.dump(node.args[1]):
        yield "arguments swapped", partial(node.args.__setitem__, slice(0, 2), [node.args[1], node.args[0]])


def returned(node: ast.Return) -> Iterator[Offer]:
    """Offer a return as one of None."""
    if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
        yield "returns None", partial(setattr, node, "value", ast.Constant(value=None))


OFFERS: dict[type[ast.AST], Callable[..., Iterator[Offer]]] = {
    ast.Compare: compared,
    ast.BoolOp: joined,
    ast.BinOp: calculated,
    ast.AugAssign: calculated,
    ast.Constant: counted,
    ast.If: asked,
    ast.While: asked,
    ast.IfExp: asked,
    ast.comprehension: sifted,
    ast.UnaryOp: denied,
    ast.Call: called,
    ast.Return: returned,
}


def dropped(body: list[ast.stmt]) -> Iterator[tuple[int, Offer]]:
    """Offer a body without each call, raise and in-place change, and with break for continue."""
    for place, statement in enumerate(body):
        new: ast.stmt = ast.Pass()
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call | ast.Yield | ast.YieldFrom):
            kind = "call or yield dropped"
        elif isinstance(statement, ast.Raise | ast.AugAssign | ast.Delete):
            kind = f"{type(statement).__name__.lower()} dropped"
        elif isinstance(statement, ast.Break | ast.Continue):
            new = ast.Continue() if isinstance(statement, ast.Break) else ast.Break()
            kind = f"to {type(new).__name__.lower()}"
        else:
            continue
        yield statement.lineno, (kind, partial(body.__setitem__, place, new))


def left_alone(node: ast.AST) -> list[ast.AST]:
    """Return the children of a node that are never changed: annotations, texts, what only the type checker reads."""
    if isinstance(node, ast.AnnAssign | ast.arg):
        return [node.annotation] if node.annotation else []
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.returns] if node.returns else []
    if isinstance(node, ast.Assert):
        return [node.msg] if node.msg else []
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return list(ast.iter_child_nodes(node))
    return list(node.values) if isinstance(node, ast.JoinedStr) else []


def offers(tree: ast.Module) -> Iterator[tuple[int, Offer]]:
    """Yield the line and the offer of every change to a tree, in one order."""
    queue: list[ast.AST] = [tree]
    while queue:
        node = queue.pop(0)
        alone = left_alone(node)
        checker_only = isinstance(node, ast.If) and bool(alone)
        for body in (getattr(node, part, None) for part in ("body", "orelse", "finalbody")):
            yield from dropped(body) if isinstance(body, list) else ()
        if type(node) in OFFERS and not checker_only:
            line = node.target.lineno if isinstance(node, ast.comprehension) else getattr(node, "lineno", 0)
            for offer in OFFERS[type(node)](node):
                yield line, offer
        queue.extend(child for child in ast.iter_child_nodes(node) if child not in alone)


def mutants_of(root: Path, path: str) -> list[Mutant]:
    """Return all mutants of one file."""
    tree = ast.parse((root / path).read_text())
    return [Mutant(path, line, kind, number) for number, (line, (kind, _)) in enumerate(offers(tree))]


def mutated(source: str, mutant: Mutant) -> ast.Module:
    """Return the tree of a source with the mutant's change made."""
    tree = ast.parse(source)
    for number, (_, (_, change)) in enumerate(list(offers(tree))):
        if number == mutant.number:
            change()
    return ast.fix_missing_locations(tree)


def sample(mutants: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """Draw mutants spread evenly over the files, in an order of which every beginning is a fair sample too."""
    chance = random.Random(seed)
    shuffled = copy.copy(list(mutants))
    chance.shuffle(shuffled)
    shuffled.sort(key=lambda mutant: mutant.path)
    count = min(count, len(shuffled))
    drawn = [shuffled[(2 * place + 1) * len(shuffled) // (2 * count)] for place in range(count)]
    chance.shuffle(drawn)
    return drawn
