"""Read a policy of the user's own from a Python file: names that stand in it are fields of a policy, on top of a known one.

    BASE = "on-demand"
    has_ext_flag = False

    def external_term(config, ext, disabled):
        return config

The file runs as a module of its own, with the rights of whoever runs this. Whatever is wrong in it is said as theirs, with file
and line. docs/policy-files.md has the fields.
"""

import ast
import builtins
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import attrs

from replay.errors import KvmReplayError, PolicyFileError
from replay.kvm.policies import POLICIES, Policy

SUFFIX: Final = ".py"
BASE: Final = "BASE"
BYTES_MAX: Final = 1 << 20
NAME_MAX: Final = 64
SPEC_MAX: Final = 100
"""Longest name of a file as a lane: lanes are named by it in reports."""
_PAGE: Final = "docs/policy-files.md has the fields"
_TERM: Final = "external_term"
_FIXED: Final = ("name", "kernel")


def is_policy_file(spec: str) -> bool:
    """Tell whether a lane or policy is written as a file of the user's.

    >>> is_policy_file("./my_policy.py@tdp=0"), is_policy_file("on-demand")
    (True, False)
    """
    return spec.partition("@")[0].endswith(SUFFIX)


def own_policies(specs: Iterable[str], folder: str = "") -> dict[str, Policy]:
    """Return the policies of the files among some lanes, by the name that stands there. Raises PolicyFileError.

    folder: what relative names are relative to, "" for the current one.
    """
    names = dict.fromkeys(spec.partition("@")[0] for spec in specs if is_policy_file(spec))
    for name in names:
        if len(name) > SPEC_MAX:
            raise PolicyFileError(f"a name of {len(name)} characters", where=name[:SPEC_MAX], expected=f"at most {SPEC_MAX}")
    return {name: load_policy(name, folder) for name in names}


def load_policy(name: str, folder: str = "") -> Policy:
    """Return the policy that a file describes. Raises PolicyFileError for a file that can not be read, or that is wrong."""
    path = Path(folder, name)
    try:
        source = path.read_bytes()[: BYTES_MAX + 1]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise PolicyFileError((reason or str(error)).lower(), where=name, expected="a Python file") from None
    if len(source) > BYTES_MAX:
        raise PolicyFileError(f"more than {BYTES_MAX:,} bytes", where=name, expected="a policy file of some lines")
    return policy_of(source, name)


def policy_of(source: bytes, name: str) -> Policy:
    """Return the policy of a file's content; name: how messages call it."""
    held, lines = _run(source, name)
    bases = {policy.name: policy for policy in POLICIES if policy.kernel}
    said = held.pop(BASE, None)
    base = bases.get(said) if isinstance(said, str) else None
    if base is None:
        advice = f"for example {BASE} = 'on-demand'"
        where = _at(name, lines.get(BASE))
        raise PolicyFileError(f"no {BASE} that is a policy", where=where, expected=f"one of {', '.join(bases)}", advice=advice)
    changes = {field: _field(field, value, name, lines.get(field), base) for field, value in held.items()}
    title = f"{Path(name).name}, a policy file on top of {base.name}"
    return attrs.evolve(base, **{"title": title, "kernels": "no release: a file"} | changes, name=Path(name).name[:NAME_MAX])


def _run(source: bytes, name: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the public names that a file leaves, and the line that last binds each."""
    module: dict[str, Any] = {"__name__": Path(name).stem, "__file__": name, "__builtins__": builtins}
    try:
        tree = ast.parse(source, name)
        exec(compile(tree, name, "exec"), module)  # noqa: S102 - running the user's file is what they ask for
    except SyntaxError as error:
        raise PolicyFileError(f"{type(error).__name__}: {error.msg}", where=_at(name, error.lineno), expected="Python") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever their code raises is theirs
        raise _theirs(error, name) from None
    lines = dict(_bindings(tree))
    imported = {key for key in module if key not in lines}
    return {key: value for key, value in module.items() if not key.startswith("_") and key not in imported}, lines


def _bindings(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the names that assignments and functions of a module bind, with their lines; imports and loops bind helpers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node in tree.body:
            yield node.name, node.lineno
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if node in tree.body:
            yield from ((target.id, node.lineno) for target in targets if isinstance(target, ast.Name))


def _at(name: str, line: int | None) -> str:
    return f"{name}, line {line}" if line else name


def _field(field: str, value: Any, name: str, line: int | None, base: Policy) -> Any:
    """Return the value of a field, its function wrapped so that a failure is said as theirs."""
    where = _at(name, line)
    known = {one.name: getattr(base, one.name) for one in attrs.fields(Policy) if one.name not in _FIXED}
    if field not in known:
        from difflib import get_close_matches  # only for the message

        near = get_close_matches(field, known, n=1)
        advice = f"did you mean {near[0]}? A helper's name begins with _" if near else f"a helper's name begins with _; {_PAGE}"
        expected = f"one of {', '.join(known)}"
        raise PolicyFileError(f"{field} is not a field of a policy", where=where, expected=expected, advice=advice)
    if field == _TERM:
        return _checked_term(value, name, where)
    if type(value) is not type(known[field]):
        words = "True or False" if isinstance(known[field], bool) else "a text"
        raise PolicyFileError(f"{field} is {value!r}"[:200], where=where, expected=words)
    return value


def _checked_term(value: Any, name: str, where: str) -> Callable[[bool, bool, bool], bool]:
    """Return the user's function as one that raises PolicyFileError; it is tried with every input at once."""
    if not callable(value):
        raise PolicyFileError(f"{_TERM} is {value!r}"[:200], where=where, expected="a function of (config, ext, disabled)")
    table: dict[tuple[bool, bool, bool], bool] = {}
    for config, ext, disabled in itertools.product((False, True), repeat=3):
        inputs = (config, ext, disabled)
        try:
            answer = value(*inputs)
        except Exception as error:  # noqa: BLE001 - whatever their code raises is theirs
            raise _theirs(error, name, where) from None
        if type(answer) is not bool:
            raise PolicyFileError(f"{_TERM}{inputs} gives {answer!r}"[:200], where=where, expected="True or False")
        table[inputs] = answer
    return lambda config, ext, disabled: table[bool(config), bool(ext), bool(disabled)]


def _theirs(error: BaseException, name: str, where: str = "") -> PolicyFileError:
    """Return an exception of their code as an error with the line of their file."""
    line = _line_in(error.__traceback__, name)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return PolicyFileError(what[:500], where=_at(name, line) if line else where or name, expected="code that runs")


def _line_in(trace: TracebackType | None, name: str) -> int | None:
    found = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == name:
            found = trace.tb_lineno
        trace = trace.tb_next
    return found


@contextlib.contextmanager
def answered_for(policies: dict[str, Policy]) -> Iterator[None]:
    """Say it of the user's policy when the model breaks down under it: rows of ours are known to go together, theirs are not."""
    try:
        yield
    except KvmReplayError:
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        if not policies:
            raise
        what = f"the model breaks down under this policy ({type(error).__name__})"
        advice = "its fields contradict each other, or it is a bug of kvm-replay: change one field at a time"
        raise PolicyFileError(what, where=", ".join(policies), advice=advice) from error
