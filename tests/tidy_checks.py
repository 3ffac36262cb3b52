"""Find the habits of the project that a machine can check and that are broken, in Python source given as text.

Each check takes a `Module` and yields complaints, "path:line: what". tests/test_tidy.py runs them over the project, and shows
on small bad samples that each of them can fail.
"""

import ast
from collections.abc import Iterator
from typing import Final

import attrs

FUNCTION_LINES_MAX: Final = 60
FILE_LINES_MAX: Final = 400
HEAVY: Final = frozenset({"numpy", "rich", "zstandard", "jsonschema", "hypothesis", "pytest"})

LOADED_ALREADY: Final = frozenset({("pytest_plugin", "pytest")})
"""Rooms that are only ever imported by a library that is therefore no cost to them."""

VOCABULARY: Final = ("units", "errors", "version", "events", "header", "runs", "stream", "soundness")
"""Rooms that everyone may know, innermost first: each may know those before it."""

ROOMS: Final[dict[str, tuple[str, ...]]] = {
    **{room: VOCABULARY[:index] for index, room in enumerate(VOCABULARY)},
    "event_docs": VOCABULARY,
    "schema": (*VOCABULARY, "event_docs"),
    "recording": VOCABULARY,
    "sources": (*VOCABULARY, "recording"),
    "live": (*VOCABULARY, "sources"),  # a source that makes its own recording: it borrows the numbers of the ioctls
    "generate": VOCABULARY,
    "record": (*VOCABULARY, "recording", "sources", "live"),
    "native": (),
    "kvm": (*VOCABULARY, "native"),
    "engine": (*VOCABULARY, "kvm"),
    "analyses": (*VOCABULARY, "kvm", "engine"),
    "report": (*VOCABULARY, "kvm", "engine", "analyses"),
    "fleet": (*VOCABULARY, "recording", "sources", "kvm", "engine", "analyses"),  # many recordings in many processes
    "policy_file": (*VOCABULARY, "kvm"),
    "golden": (*VOCABULARY, "recording", "sources", "kvm", "engine", "analyses", "report", "policy_file"),
    "cli": (
        *(*VOCABULARY, "schema", "recording", "sources", "live", "record", "generate", "fleet"),
        *("kvm", "engine", "analyses", "report", "policy_file", "golden"),
    ),
    "pytest_plugin": (*VOCABULARY, "kvm", "engine", "analyses", "report", "policy_file", "golden"),
    "__main__": ("cli",),
}
"""Room -> rooms that it may import from. A change here is a change of the architecture: docs/architecture.md says it too."""

PURE_ROOMS: Final = frozenset(
    {"units", "errors", "events", "header", "runs", "stream", "soundness", "generate", "kvm", "engine", "analyses", "report"}
)
CLOCKLESS_ROOMS: Final = PURE_ROOMS | {"recording", "sources", "live", "schema", "event_docs", "fleet"}

CLOCK_MODULES: Final = frozenset({"time", "datetime", "random", "secrets", "uuid"})
IO_MODULES: Final = frozenset({"os", "io", "pathlib", "shutil", "socket", "subprocess", "sys", "tempfile", "threading"})
CLOCK_CALLS: Final = frozenset({"hash", "id"})
IO_CALLS: Final = frozenset({"open", "input", "print", "exec", "eval", "__import__"})


@attrs.frozen
class Module:
    """One Python file: its path from the root of the project, and its text."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        """Return the parsed text."""
        return ast.parse(self.text)

    @property
    def room(self) -> str:
        """Return the room of a file in replay/: the folder or module directly under it, "" elsewhere."""
        parts = self.path.removesuffix(".py").split("/")
        return parts[1] if parts[0] == "replay" and len(parts) > 1 and parts[1] != "__init__" else ""

    @property
    def name(self) -> str:
        """Return the dotted name that it is imported by."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def at(self, node: ast.AST | int, what: str) -> str:
        """Return a complaint about a place in it."""
        return f"{self.path}:{node if isinstance(node, int) else getattr(node, 'lineno', 0)}: {what}"


def imported(node: ast.AST) -> tuple[str, ...]:
    """Return the modules that an import statement names; "from a import b" names a and a.b."""
    if isinstance(node, ast.Import):
        return tuple(alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
    return ()


def imports_inwards(module: Module) -> Iterator[str]:
    """Complain of an import that leaves the room in a direction that ROOMS does not allow, and of relative imports."""
    if not module.room:
        return
    if module.room not in ROOMS:
        yield module.at(1, f"room {module.room} is not in the table of rooms")
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield module.at(node, "relative import")
        rooms = {name.split(".")[1] for name in imported(node) if name.startswith("replay.")}
        known = {room for room in rooms if room in ROOMS}
        yield from (
            module.at(node, f"{module.room} may not import from {room}")
            for room in sorted(known)
            if room != module.room and room not in ROOMS[module.room]
        )


def heavy_imports(module: Module) -> Iterator[str]:
    """Complain of a slow or optional library that is imported when the module is, rather than where it is needed."""
    if not module.path.startswith("replay/"):
        return
    for node in _at_import_time(module.tree):
        for name in imported(node):
            if name.split(".")[0] in HEAVY and (module.room, name.split(".")[0]) not in LOADED_ALREADY:
                yield module.at(node, f"{name.split('.')[0]} is imported at module level")
                break


def _at_import_time(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _type_checking(child):
            continue
        yield child
        yield from _at_import_time(child)


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function of a tree, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def function_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the length of a function in lines, from `def` to its end, without docstring and decorators."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def long_functions(module: Module) -> Iterator[str]:
    """Complain of a function over the hard stop."""
    for function in functions(module.tree):
        if function_lines(function) > FUNCTION_LINES_MAX:
            yield module.at(function, f"{function.name} has {function_lines(function)} lines, over {FUNCTION_LINES_MAX}")


def long_file(module: Module) -> Iterator[str]:
    """Complain of a file over the hard stop."""
    lines = module.text.count("\n")
    if lines > FILE_LINES_MAX:
        yield module.at(FILE_LINES_MAX, f"{lines} lines, over {FILE_LINES_MAX}")


def impure_calls(module: Module) -> Iterator[str]:
    """Complain of clock, randomness, addresses and hashes where output is made, and of input and output in pure rooms."""
    if module.room not in CLOCKLESS_ROOMS:
        return
    pure = module.room in PURE_ROOMS
    modules = CLOCK_MODULES | IO_MODULES if pure else CLOCK_MODULES
    calls = CLOCK_CALLS | IO_CALLS if pure else CLOCK_CALLS
    for node in ast.walk(module.tree):
        names = {name.split(".")[0] for name in imported(node)}
        yield from (module.at(node, f"{module.room} may not import {name}") for name in sorted(names & modules))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in calls:
            yield module.at(node, f"{module.room} may not call {node.func.id}()")


def set_iteration(module: Module) -> Iterator[str]:
    """Complain of walking a set in its own order: of strings it differs from run to run; sort it first."""
    if not module.path.startswith("replay/"):
        return
    for scope in (module.tree, *functions(module.tree)):
        sets = _set_names(scope)
        for node in _own(scope):
            for walked in _walked(node):
                if _is_set(walked, sets):
                    yield module.at(walked, "a set is walked in its own order; sort it")


def _own(scope: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a scope without those of functions inside it."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _own(child)


def _set_names(scope: ast.AST) -> frozenset[str]:
    """Return the local names that are only ever bound to sets."""
    bound: dict[str, bool] = {}
    for node in _own(scope):
        pairs: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            pairs = [(node.target, node.value)]
        for target, value in pairs:
            if isinstance(target, ast.Name):
                bound[target.id] = bound.get(target.id, True) and _is_set(value, frozenset())
    return frozenset(name for name, is_set in bound.items() if is_set)


def _is_set(node: ast.expr, names: frozenset[str]) -> bool:
    if isinstance(node, ast.Set | ast.SetComp) or (isinstance(node, ast.Name) and node.id in names):
        return True
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor):
        return _is_set(node.left, names) or _is_set(node.right, names)
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"set", "frozenset"}


_ORDERED_COPIES: Final = frozenset({"list", "tuple", "enumerate", "iter", "zip", "map", "filter", "reversed"})


def _walked(node: ast.AST) -> list[ast.expr]:
    """Return the expressions that a node walks in an order that shows: loops, list and dict displays, joins, copies."""
    if isinstance(node, ast.For | ast.AsyncFor):
        return [node.iter]
    if isinstance(node, ast.ListComp | ast.DictComp):
        return [generator.iter for generator in node.generators]
    if isinstance(node, ast.Starred):
        return [node.value]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ORDERED_COPIES:
        return list(node.args)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "join":
        return list(node.args)
    return []
