"""Publish what recordings and reports look like: JSON Schema 2020-12 and docs/events.md, generated from the classes.

Nothing is written twice: widths, words, lengths and sentences come from the `FieldSpec` of each field. A class with such
fields, an event or a report, gives a schema by `json_schema(cls, name, version)`.

    python -m replay.schema schemas/                    write the schemas
    python -m replay.schema --docs docs/events.md       write the catalogue of events
    python -m replay.schema --check schemas/ --docs ... say whether they are up to date, change nothing

Known limit: the schemas state what one line or document may hold. That event numbers fit, that lists fit into a block and
that VMs exist is for the readers.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from replay.event_docs import events_document, nested, paragraphs
from replay.events import Event, FieldSpec, all_kinds, specs
from replay.header import Header, Trailer

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
MAJOR: Final = Header().schema_major
SIGNED_MIN: Final = -(1 << 63)


def schema_id(name: str, version: int) -> str:
    """Return the identifier of a schema.

    >>> schema_id("events", 1)
    'urn:kvm-replay:schema:events:1'
    """
    return f"urn:kvm-replay:schema:{name}:{version}"


def _one_of(spec: FieldSpec) -> Schema:
    """Return the schema of a field, its null aside."""
    number = {"type": "integer", "minimum": 0, "maximum": spec.max}
    nested = {"$ref": f"#/$defs/{spec.of.__name__}"} if spec.of else {}
    shapes: dict[str, Schema] = {
        "uint": number,
        "int": {"type": "integer", "minimum": SIGNED_MIN, "maximum": -SIGNED_MIN - 1},
        "bool": {"type": "boolean"},
        "str": {"type": "string", "maxLength": spec.length_max},
        "enum": {"enum": list(spec.choices)},
        "uints": {"type": "array", "items": number, "maxItems": spec.length_max},
        "value": nested,
        "values": {"type": "array", "items": nested, "maxItems": spec.length_max},
    }
    return shapes[spec.shape]


def _default(default: Any) -> Any:
    """Return a default as JSON: nothing of a tuple or nested value that holds nothing but defaults."""
    if isinstance(default, tuple):
        return []
    return {} if attrs.has(type(default)) else default


def field_schema(spec: FieldSpec, default: Any = attrs.NOTHING) -> Schema:
    """Return the schema of one field: what it may hold, its sentence with the unit, its default."""
    schema = _one_of(spec)
    if spec.optional:
        plain = "type" in schema and "items" not in schema
        schema = {**schema, "type": [schema["type"], "null"]} if plain else {"anyOf": [schema, {"type": "null"}]}
    schema = {"description": f"{spec.doc} ({spec.unit})" if spec.unit else spec.doc, **schema}
    return schema if default is attrs.NOTHING else {**schema, "default": _default(default)}


def object_schema(cls: type[Any], *, leave_out: Sequence[str] = (), more: Mapping[str, Schema] | None = None) -> Schema:
    """Return the schema of an object with the fields of a class; more: further properties, all required, that stand first."""
    defaults = {a.name: a.default for a in attrs.fields(cls)}
    known = {name: spec for name, spec in specs(cls).items() if name not in leave_out}
    needed = [name for name in known if defaults[name] is attrs.NOTHING]
    return {
        "description": paragraphs(cls)[0],
        "type": "object",
        "properties": {**(more or {}), **{name: field_schema(spec, defaults[name]) for name, spec in known.items()}},
        "required": [*(more or {}), *needed],
        "additionalProperties": False,
    }


def definitions(*classes: type[Any]) -> Schema:
    """Return the schemas of every class nested in these, by class name."""
    return {cls.__name__: object_schema(cls) for cls in nested(classes)}


def document(name: str, version: int, body: Schema, *classes: type[Any]) -> Schema:
    """Return a whole schema document: its head, its body, and definitions of what is nested in the classes."""
    head = {"$schema": DIALECT, "$id": schema_id(name, version), "title": f"kvm-replay {name}, version {version}"}
    nested = definitions(*classes)
    return {**head, **body, **({"$defs": nested | body.get("$defs", {})} if nested or "$defs" in body else {})}


def json_schema(cls: type[Any], name: str, version: int) -> Schema:
    """Return the JSON Schema 2020-12 document of a class whose fields are declared by `replay.events.base`.

    >>> from replay.events import Task
    >>> json_schema(Task, "task", 1)["properties"]["pid"]["maximum"]
    4294967295
    """
    return document(name, version, object_schema(cls), cls)


def event_schema(cls: type[Event]) -> Schema:
    """Return the schema of one event as an object."""
    return object_schema(cls, more={"event": {"const": cls.KIND}})


def events_schema() -> Schema:
    """Return the document of all events."""
    kinds = {cls.KIND: event_schema(cls) for cls in all_kinds()}
    body = {
        "description": "One event of a recording, as JSON Lines write it.",
        "oneOf": [{"$ref": f"#/$defs/{kind}"} for kind in kinds],
        "$defs": kinds,
    }
    return document("events", MAJOR, body, *all_kinds())


def recording_schema() -> Schema:
    """Return the document of the lines of a .jsonl recording: the first, an event, the last."""
    first = object_schema(Header, leave_out=["schema_major"], more={"kvm-replay": {"const": f"recording/{MAJOR}"}})
    first["properties"]["hand_written"] = {
        "description": "people edit this file: no end line",
        "type": "boolean",
        "default": False,
    }
    end = {
        "type": "object",
        "properties": {"end": {"$ref": "#/$defs/Trailer"}},
        "required": ["end"],
        "additionalProperties": False,
    }
    body = {
        "description": "One line of a .jsonl recording.",
        "oneOf": [{"$ref": "#/$defs/first"}, {"$ref": schema_id("events", MAJOR)}, {"$ref": "#/$defs/end"}],
        "$defs": {"first": first, "end": end, "Trailer": object_schema(Trailer)},
    }
    return document("recording", MAJOR, body, Header, Trailer)


DOCUMENTS: Final[dict[str, Callable[[], Schema]]] = {
    "header": lambda: json_schema(Header, "header", MAJOR),
    "trailer": lambda: json_schema(Trailer, "trailer", MAJOR),
    "events": events_schema,
    "recording": recording_schema,
}


def text_of(schema: Schema) -> str:
    """Return a schema as the text of its file."""
    return json.dumps(schema, indent=2) + "\n"


def schema_files() -> dict[str, str]:
    """Return the text of every file of schemas/ that is generated here, by name."""
    return {f"{name}-{MAJOR}.json": text_of(make()) for name, make in DOCUMENTS.items()}


def stale(files: Mapping[Path, str]) -> list[Path]:
    """Return the files that are missing or hold another text."""
    return [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the generated files; return 1 when --check finds one that is not up to date."""
    parser = argparse.ArgumentParser(
        prog="python -m replay.schema", description="Write the published schemas and docs/events.md."
    )
    parser.add_argument("directory", nargs="?", type=Path, help="where the schemas go")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="where the catalogue of events goes")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a file is not up to date")
    chosen = parser.parse_args(arguments)
    files = {chosen.directory / name: text for name, text in schema_files().items()} if chosen.directory else {}
    if chosen.docs:
        files[chosen.docs] = events_document()
    if chosen.check:
        old = stale(files)
        print("\n".join(f"{path}: not up to date" for path in old), file=sys.stderr, end="\n" if old else "")
        return 1 if old else 0
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
