"""Promises of the schemas of the verbs' results."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from report_schemas import DIRECTORY, REPORTS, dump_schema, report_schema, report_schemas

from replay.cli import main
from replay.cli.verbs import VERBS

RECORDING = DIRECTORY.parent / "recordings" / "kernel" / "6.12-npt0" / "08-gfn.kvmr"
OUTPUTS = {
    "import": ["import", str(RECORDING), "--output", "again.kvmr", "--force"],
    "info": ["info", str(RECORDING)],
    "compare": ["compare", str(RECORDING)],
    "check": ["check", str(RECORDING)],
    "golden": ["golden", "check", str(RECORDING)],
    "live": ["live", "--operations", "30"],
    "state": ["state", str(RECORDING), "--at", "20"],
    "blame": ["blame", str(RECORDING), "--gfn", "0x10"],
    "cost": ["cost", str(RECORDING)],
    "policies": ["policies"],
    "index": ["index", "there.kvmr"],
    "verify": ["verify", str(RECORDING)],
    "recover": ["recover", str(RECORDING), "--output", "saved.kvmr", "--force"],
    "pack": ["pack", str(RECORDING), "--scrub", "--output", "packed.kvmr", "--force"],
    "minimise": ["minimise", str(RECORDING), "--output", "small.kvmr", "--force", "--profile", "tdp=1"],
    "generate": ["generate", "mixed", "--events", "50", "--output", "made.kvmr", "--force"],
    "fleet": ["fleet", str(RECORDING)],
    "dump": ["dump", str(RECORDING)],
}


def output(name: str, form: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a verb prints in a form; its status is any but trouble."""
    assert main([*OUTPUTS[name], "--format", form]) != 2
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.kvmr").write_bytes(RECORDING.read_bytes())


class TestSchemas:
    """What a verb prints as JSON is what its schema says."""

    def test_every_verb_has_one(self) -> None:
        """Each verb that prints JSON has a schema and a case here."""
        assert (
            set(OUTPUTS) == {*REPORTS, "dump"} == {verb.name for verb in VERBS} - {"record"}
        )  # standard output is its command's

    @pytest.mark.parametrize("name", sorted(report_schemas()))
    def test_files_are_up_to_date(self, name: str) -> None:
        """Each file is what the classes give: `PYTHONPATH=. python tests/docs/report_schemas.py` renews them."""
        assert (DIRECTORY / name).read_text() == report_schemas()[name]

    @pytest.mark.parametrize("name", sorted(OUTPUTS))
    def test_output_is_valid(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Real output passes an independent validator, and fails it without its schema's name or with a stray key."""
        schema: dict[str, Any] = dump_schema() if name == "dump" else report_schema(name)
        validator = jsonschema.Draft202012Validator(schema)
        validator.check_schema(schema)
        found = json.loads(output(name, "json", capsys))
        assert list(validator.iter_errors(found)) == []
        assert list(validator.iter_errors({**found, "stray": 1}))
        assert list(validator.iter_errors({key: item for key, item in found.items() if key != "schema"}))

    def test_dump_lines_are_valid(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Each line of a dump as jsonl is an event of the schema."""
        schema = dump_schema()
        validator = jsonschema.Draft202012Validator({"$defs": schema["$defs"], **schema["properties"]["events"]["items"]})
        lines = output("dump", "jsonl", capsys).splitlines()
        assert len(lines) > 20
        assert [line for line in lines if list(validator.iter_errors(json.loads(line)))] == []

    def test_recording_is_there(self) -> None:
        """The recording that the cases use comes with the project."""
        assert Path(RECORDING).is_file()
