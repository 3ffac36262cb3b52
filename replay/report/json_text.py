"""Turn result values into JSON documents: the fields' own names, a schema name first, addresses as integers."""

import json
from typing import Any, Final

import attrs

from replay.events.base import specs

SCHEMA_PREFIX: Final = "kvm-replay"


def plain(value: Any) -> Any:
    """Return a result value as dicts, lists, strings, numbers, booleans and None, in the order of its fields."""
    if attrs.has(type(value)):
        return {name: plain(getattr(value, name)) for name in specs(type(value))}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    assert value is None or isinstance(value, bool | int | str), f"{type(value).__name__} is not a JSON value"
    return value


def schema_id(name: str, version: int = 1) -> str:
    """Return the name that a document carries: which keys it has, and which meaning they keep for ever.

    >>> schema_id("info")
    'kvm-replay/info/1'
    """
    return f"{SCHEMA_PREFIX}/{name}/{version}"


def document(name: str, value: Any, *, version: int = 1, one_line: bool = False) -> str:
    """Return a result value as a JSON document that ends in a newline: indented, or on one line for JSON Lines."""
    whole = {"schema": schema_id(name, version), **plain(value)}
    return line(whole) if one_line else json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def line(value: dict[str, Any]) -> str:
    """Return one object as one line of JSON Lines, with its newline."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"
