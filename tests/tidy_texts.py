"""Find broken habits in texts that are not only Python: citations, links, leftovers, machine paths, dead modules."""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from tidy_checks import Module, imported

# Put together, so that the file that looks for them does not hold them.
LEFTOVERS: Final = tuple("".join(parts) for parts in (("TO", "DO"), ("FIX", "ME"), ("X", "XX")))
MACHINE_PATHS: Final = tuple("/".join(parts) for parts in (("", "work", ""), ("", "root", ""), ("", "home", ""), ("shared", "")))
GOLDEN: Final = ".golden"
ENTRY_POINTS: Final = frozenset({"replay", "replay.__main__", "replay.cli", "replay.pytest_plugin"})

NOT_OF_THE_KERNEL: Final = {
    "replay.kvm.fold.fold_run": "hands rows to functions that cite",
    "replay.kvm.ioctls.as_recorded": "says that the model knows nothing",
    "replay.kvm.profile.parse_facts": "reads words of a command line",
    "replay.kvm.profile.profile_of": "reads words of a header",
}
"""Public functions of the model that say nothing of the kernel, with the reason; a test keeps only what is needed."""

_CITATION: Final = re.compile(r"[Ss]ource(?:s|d)?\b[^:\n]*:|\b(?:virt|arch|include|mm|drivers|lib|kernel)/[\w/.-]+\.[ch]\b")
_NAMED: Final = re.compile(r"(\w+)\.py\b|\[\"(\w+)\"\]")
"""A program of a test, child.py, or a plugin of pytest, ["name"]."""
_LINK: Final = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
_HEADING: Final = re.compile(r"^#{1,6}\s+(.*?)\s*$", re.MULTILINE)
_FENCE: Final = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def uncited(module: Module) -> Iterator[str]:
    """Complain of a public function or class of the kernel model that names no kernel source.

    A citation is "Source: ..." or a path of the kernel tree, in the docstring, in a comment inside or in the comment right
    above. A module's docstring speaks for its constants and classes, not for its functions: those are the kernel's decisions.
    """
    if module.room != "kvm" or module.path.endswith("__init__.py"):
        return
    lines = module.text.splitlines()
    shapes_cited = bool(_CITATION.search(ast.get_docstring(module.tree) or ""))
    for node in module.tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if (isinstance(node, ast.ClassDef) and shapes_cited) or f"{module.name}.{node.name}" in NOT_OF_THE_KERNEL:
            continue
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        above = first - 1
        while above > 0 and lines[above - 1].startswith("#"):
            above -= 1
        if not _CITATION.search("\n".join(lines[above : node.end_lineno])):
            yield module.at(node, f"{node.name} cites no kernel source")


def anchors(text: str) -> frozenset[str]:
    """Return the anchors that a page's headings have, spelled as the usual renderers do."""
    headings = _HEADING.findall(_FENCE.sub("", text))
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings)


def broken_links(path: str, text: str, pages: Mapping[str, str], files: frozenset[str]) -> Iterator[str]:
    """Complain of a relative link of a Markdown page to a file or heading that is not there.

    pages: path -> text of all Markdown pages; files: every path of the project, folders too.
    """
    folder = path.split("/")[:-1]
    for link in _LINK.findall(_FENCE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = _joined(folder, name) if name else path
        if target not in files:
            yield f"{path}: link to {link}: no such file"
        elif anchor and anchor not in anchors(pages.get(target, "")):
            yield f"{path}: link to {link}: no such heading"


def _joined(folder: list[str], name: str) -> str:
    parts = list(folder)
    for part in name.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)


def leftovers(path: str, text: str) -> Iterator[str]:
    """Complain of notes to oneself, and of paths that exist on one machine only."""
    for number, line in enumerate(text.splitlines(), start=1):
        yield from (f"{path}:{number}: {word}" for word in LEFTOVERS if re.search(rf"\b{word}\b", line))
        yield from (f"{path}:{number}: machine path {word}" for word in MACHINE_PATHS if word in line)


def dead_modules(modules: Iterable[Module]) -> Iterator[str]:
    """Complain of a module of replay/ that no other one imports, that is no entry point and can not be run by itself."""
    known = [module for module in modules if module.path.startswith("replay/")]
    used = set(ENTRY_POINTS)
    for module in known:
        for node in ast.walk(module.tree):
            used.update(name for name in imported(node) if name != module.name)
    # Importing a.b.c imports a and a.b as well.
    used |= {".".join(name.split(".")[:depth]) for name in used for depth in range(1, name.count(".") + 1)}
    yield from (f"{module.path}: nothing imports it" for module in known if module.name not in used and not runs(module))


def dead_helpers(modules: Iterable[Module]) -> Iterator[str]:
    """Complain of a module of tests/ that holds no tests, that no other one imports and that can not be run by itself."""
    known = [module for module in modules if module.path.startswith("tests/")]
    used = {name.split(".")[0] for module in known for node in ast.walk(module.tree) for name in imported(node)}
    for module in known:
        used.update(found for pair in _NAMED.findall(module.text) for found in pair)
    for module in known:
        stem = module.path.split("/")[-1].removesuffix(".py")
        if not stem.startswith(("test_", "conftest")) and stem not in used and not runs(module):
            yield f"{module.path}: nothing imports it"


def dead_names(modules: Sequence[Module]) -> Iterator[str]:
    """Complain of a public function, class or alias of replay/ that nothing mentions but its own definition."""
    mentions = Counter(word for module in modules for word in re.findall(r"\w+", module.text))
    for module in modules:
        for node in module.tree.body if module.path.startswith("replay/") else ():
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names = [node.name]
            else:
                targets = node.targets if isinstance(node, ast.Assign) else []
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            yield from (module.at(node, f"{name} is used nowhere") for name in names if mentions[name] == 1 and not _hook(name))


def _hook(name: str) -> bool:
    """Return whether a name is one that somebody else's program looks for."""
    return name.startswith(("_", "pytest_"))


def runs(module: Module) -> bool:
    """Return whether a module can be run as a program: `python -m replay.schema`."""
    return any(isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in module.tree.body)


def unlisted_files(folder: str, files: Iterable[str], readme: str) -> Iterator[str]:
    """Complain of a name in a data folder that its README does not explain, and of a row there for a name that is not there.

    A table explains a name in its first cell: `boot.kvmr` a file, `6.12/` a folder. Files of one name in several folders, the
    same scenario on several machines, are explained once; `boot.kvmr.golden` is explained by its recording, which must be there.
    A folder with a README of its own explains its files itself.
    """
    inside = [path.removeprefix(f"{folder}/") for path in files if path.startswith(f"{folder}/")]
    apart = [path.removesuffix("README.md") for path in inside if path.endswith("/README.md")]
    inside = [next((own for own in apart if path.startswith(own)), path) for path in inside]
    goldens = [path for path in inside if path.endswith(GOLDEN)]
    lonely = [golden for golden in goldens if golden.removesuffix(GOLDEN) not in inside]
    yield from (f"{folder}/{golden}: a golden file without its recording" for golden in lonely)
    parts = [path.split("/") for path in inside if path not in {"README.md", *goldens}]
    names = {f"{part}/" for path in parts for part in path[:-1]} | {path[-1] for path in parts if path[-1]}
    explained = set(re.findall(r"^\|\s*`([^`]+)`", readme, re.MULTILINE))
    yield from (f"{folder}/README.md: no row for {name}" for name in sorted(names - explained))
    yield from (f"{folder}/README.md: {name} is not there" for name in sorted(explained - names))
