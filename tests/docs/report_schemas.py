"""Write the schemas of the verbs' JSON results from their classes: `python tests/docs/report_schemas.py` writes schemas/."""

from pathlib import Path
from typing import Any, Final

from replay.analyses.blame_report import BlameReport
from replay.analyses.check_report import CheckReport
from replay.analyses.compare_report import CompareReport
from replay.analyses.cost import CostReport
from replay.analyses.fleet_report import FleetReport
from replay.analyses.generate_report import GenerateReport
from replay.analyses.golden_report import GoldenReport
from replay.analyses.import_report import ImportReport
from replay.analyses.index_report import IndexReport
from replay.analyses.info import Info
from replay.analyses.live_report import LiveReport
from replay.analyses.minimise_report import MinimiseReport
from replay.analyses.policy_list import PoliciesReport
from replay.analyses.state_report import StateReport
from replay.events import all_kinds
from replay.header import CUT_SHORT_TEXT as CUT_SHORT
from replay.report.json_text import schema_id
from replay.schema import Schema, document, object_schema, text_of
from replay.soundness import RecoverReport, VerifyReport

DIRECTORY: Final = Path(__file__).resolve().parent.parent.parent / "schemas"
VERSION: Final = 1
REPORTS: Final[dict[str, type[Any]]] = {
    "import": ImportReport,
    "pack": ImportReport,
    "info": Info,
    "compare": CompareReport,
    "check": CheckReport,
    "golden": GoldenReport,
    "live": LiveReport,
    "state": StateReport,
    "blame": BlameReport,
    "cost": CostReport,
    "policies": PoliciesReport,
    "index": IndexReport,
    "verify": VerifyReport,
    "recover": RecoverReport,
    "minimise": MinimiseReport,
    "generate": GenerateReport,
    "fleet": FleetReport,
}
"""Verb -> class of its result. `dump` prints events, whose schema is put together below."""


def report_schema(name: str) -> Schema:
    """Return the schema of a verb's JSON document."""
    named = {"schema": {"const": schema_id(name, VERSION)}}
    return document(name, VERSION, object_schema(REPORTS[name], more=named), REPORTS[name])


def dump_schema() -> Schema:
    """Return the schema of what dump prints: events as in a .jsonl recording, each with its number."""
    number = {"description": "number of the event in the recording, from 0", "type": "integer", "minimum": 0}
    kinds = {cls.KIND: object_schema(cls, more={"number": number, "event": {"const": cls.KIND}}) for cls in all_kinds()}
    body: Schema = {
        "description": "The events that were chosen; with --format jsonl one of them a line.",
        "type": "object",
        "properties": {
            "schema": {"const": schema_id("dump", VERSION)},
            "events": {"type": "array", "items": {"oneOf": [{"$ref": f"#/$defs/{kind}"} for kind in kinds]}},
            "cut_short": {"description": f"{CUT_SHORT}; events that were asked for may be missing", "type": "boolean"},
        },
        "required": ["schema", "events", "cut_short"],
        "additionalProperties": False,
        "$defs": kinds,
    }
    return document("dump", VERSION, body, *all_kinds())


def report_schemas() -> dict[str, str]:
    """Return the text of each schema file, by name."""
    schemas = {name: report_schema(name) for name in REPORTS} | {"dump": dump_schema()}
    return {f"{name}-{VERSION}.json": text_of(schema) for name, schema in schemas.items()}


if __name__ == "__main__":
    for file_name, text in report_schemas().items():
        (DIRECTORY / file_name).write_text(text)
