"""The published schemas and docs/events.md are what the classes say, and what the files hold."""

import io
import json
from pathlib import Path
from typing import Any

import attrs
import jsonschema
import pytest
import referencing
from hypothesis import given
from hypothesis import strategies as st

from recordings import EVENTS, HEADERS, STRUCTURAL, TRAILERS, jsonl, small_events
from replay.errors import KvmReplayError
from replay.event_docs import events_document, nested
from replay.events import Event, all_kinds, specs
from replay.events.base import uint, values
from replay.header import Header, Machine, Trailer
from replay.recording.jsonl_writer import header_to_named
from replay.recording.named import Named, event_of_named, event_to_named, value_of_named, value_to_named
from replay.schema import DOCUMENTS, field_schema, json_schema, main, schema_files, schema_id, stale

ROOT = Path(__file__).parents[2]
SCHEMAS = {name: make() for name, make in DOCUMENTS.items()}
REGISTRY: Any = referencing.Registry().with_resources(
    (schema["$id"], referencing.Resource.from_contents(schema)) for schema in SCHEMAS.values()
)


ANY: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 300), st.integers(), st.text(max_size=3), st.sampled_from([[], {}, [1, 2]])
)


def validator(name: str, definition: str = "") -> Any:
    """Return an independent validator of one document, or of one definition in it."""
    schema = {"$ref": f"{SCHEMAS[name]['$id']}#/$defs/{definition}"} if definition else SCHEMAS[name]
    return jsonschema.Draft202012Validator(schema, registry=REGISTRY)


class TestFiles:
    """What is in the repository is what is generated."""

    @pytest.mark.parametrize("name", schema_files())
    def test_schemas(self, name: str) -> None:
        """Each schema; `python -m replay.schema schemas` writes them anew."""
        assert (ROOT / "schemas" / name).read_text(encoding="utf-8") == schema_files()[name]

    def test_events_document(self) -> None:
        """The catalogue of events; `python -m replay.schema --docs docs/events.md` writes it anew."""
        assert (ROOT / "docs" / "events.md").read_text(encoding="utf-8") == events_document()

    def test_command(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The command writes, checks, and says which file is old."""
        arguments = [str(tmp_path / "schemas"), "--docs", str(tmp_path / "docs" / "events.md")]
        assert main(["--check", *arguments]) == 1
        assert len(capsys.readouterr().err.splitlines()) == 5
        assert main(arguments) == 0
        assert main(["--check", *arguments]) == 0
        assert capsys.readouterr().err == ""
        old = tmp_path / "schemas" / "events-1.json"
        old.write_text("{}", encoding="utf-8")
        assert main(["--check", *arguments]) == 1
        assert capsys.readouterr().err == f"{old}: not up to date\n"
        assert stale({old: "{}"}) == []


class TestSchemas:
    """Each document is a JSON Schema 2020-12 with an identifier and a version."""

    @pytest.mark.parametrize("name", DOCUMENTS)
    def test_valid(self, name: str) -> None:
        """It is one, by the meta-schema, and says its name."""
        jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
        assert SCHEMAS[name]["$id"] == schema_id(name, 1) == f"urn:kvm-replay:schema:{name}:1"
        assert SCHEMAS[name]["$schema"].endswith("2020-12/schema")

    def test_every_kind(self) -> None:
        """Every kind of event is in the document of events, and in no other way than once."""
        assert [ref["$ref"] for ref in SCHEMAS["events"]["oneOf"]] == [f"#/$defs/{cls.KIND}" for cls in all_kinds()]

    def test_defaults(self) -> None:
        """Every default is a value that its own schema allows."""
        count = 0
        for cls in (*all_kinds(), Header, Trailer, *nested([*all_kinds(), Header, Trailer])):
            for attribute in attrs.fields(cls):
                spec = specs(cls).get(attribute.name)
                if spec is None or attribute.default is attrs.NOTHING or spec.of is not None:
                    continue
                schema = field_schema(spec, attribute.default)
                jsonschema.Draft202012Validator(schema).validate(schema["default"])
                count += 1
        assert count > 180

    def test_any_class(self) -> None:
        """A report class with declared fields, values nested in values, gives a whole document."""

        @attrs.frozen
        class Finding:
            """One finding."""

            event: int = uint("number of the event, from 0")

        @attrs.frozen
        class Lane:
            """One lane."""

            findings: tuple[Finding, ...] = values("in order", Finding, length_max=2)

        @attrs.frozen
        class Report:
            """What was found.

            More that is not for the schema.
            """

            lanes: tuple[Lane, ...] | None = values("lanes", Lane, length_max=9, optional=True)

        schema = json_schema(Report, "report", 3)
        assert (schema["$id"], schema["description"]) == ("urn:kvm-replay:schema:report:3", "What was found.")
        assert set(schema["$defs"]) == {"Finding", "Lane"}
        check = jsonschema.Draft202012Validator(schema)
        assert check.is_valid({"lanes": [{"findings": [{"event": 0}]}]})
        assert check.is_valid({"lanes": None})
        assert not check.is_valid({"lanes": [{"findings": [{"event": 0}] * 3}]})
        assert not check.is_valid({"lanes": [{"findings": [{}]}]})
        assert not check.is_valid({"lane": []})


class TestOutput:
    """What is written validates; what the reader refuses does not."""

    def test_lines(self) -> None:
        """Every line of a .jsonl recording is one of the document of lines."""
        check = validator("recording")
        lines = [json.loads(line) for line in io.BytesIO(jsonl(small_events(), hand_written=True))]
        assert len(lines) == len(small_events()) + 2
        for line in lines:
            check.validate(line)

    @given(EVENTS)
    def test_events(self, events: list[Event]) -> None:
        """Random events validate as written, by their own schema."""
        for event in events:
            validator("events", type(event).KIND).validate(event_to_named(event))

    @given(HEADERS, TRAILERS)
    def test_ends(self, header: Header, trailer: Trailer) -> None:
        """So do headers and trailers, as documents and as lines."""
        validator("header").validate(value_to_named(Header, header, ""))
        validator("trailer").validate(value_to_named(Trailer, trailer, ""))
        validator("recording").validate(header_to_named(header))
        validator("recording").validate({"end": value_to_named(Trailer, trailer, "")})

    @given(STRUCTURAL, st.data())
    def test_same_verdict(self, event: Event, data: st.DataObject) -> None:
        """An event with fields changed, added or removed is refused by the reader exactly when the schema refuses it."""
        named = event_to_named(event)
        for name in data.draw(st.lists(st.sampled_from([*specs(type(event)), "extra"]), max_size=2)):
            if data.draw(st.booleans()):
                named.pop(name, None)
            else:
                named[name] = data.draw(ANY)
        assert validator("events", type(event).KIND).is_valid(named) == self.readable(named)

    @staticmethod
    def readable(named: Named) -> bool:
        """Say whether the reader takes an event."""
        try:
            event_of_named(named)
        except KvmReplayError:
            return False
        return True

    @given(st.sampled_from(list(specs(Machine))), ANY)
    def test_same_verdict_of_a_machine(self, name: str, value: Any) -> None:
        """So is a header."""
        named = {"machine": {name: value}}
        try:
            value_of_named(Header, named, "header")
            readable = True
        except KvmReplayError:
            readable = False
        assert validator("header").is_valid(named) == readable


class TestDocument:
    """docs/events.md says everything."""

    def test_complete(self) -> None:
        """Every kind has a section; every field of every class a row; every link a heading."""
        text = events_document()
        headings = [line.lstrip("#").strip() for line in text.splitlines() if line.startswith("#")]
        assert [name for name in headings if "." in name or name in {"opaque", "observe", "lost", "mark", "guest_write"}] == [
            cls.KIND for cls in all_kinds()
        ]
        for cls in (*all_kinds(), *nested([*all_kinds(), Header]), Header, Trailer):
            for name, spec in specs(cls).items():
                assert f"| `{name}` |" in text
                assert spec.doc.replace("|", "\\|") in text
        anchors = {heading.lower().replace(".", "").replace(" ", "-") for heading in headings}
        links = {part.split(")")[0] for part in text.split("](#")[1:]}
        assert links
        assert links <= anchors
        assert len(headings) == len(set(map(str.lower, headings)))

    def test_kernel_sources(self) -> None:
        """Events that the kernel makes name the kernel's file."""
        text = events_document()
        assert text.count(".c") > 20
