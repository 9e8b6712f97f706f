"""The format of a saved file: documented from its types, and files have what is documented."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_dnnbench.__main__ import main
from pytest_dnnbench.results.records.schema import SavedFile
from tests.results.synthetic import NAME, file_of, record

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("file", "arguments"), [("schema.md", ["--markdown"]), ("schema.json", [])]
)
def test_the_documentation_is_the_output_of_the_command(
    file: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schema", *arguments]) == 0
    command = f"dnnbench schema {' '.join(arguments)} > docs/{file}"
    assert (DOCS / file).read_text() == capsys.readouterr().out, f"run `{command}`"


def test_every_type_has_a_docstring_on_the_page() -> None:
    sections = (DOCS / "schema.md").read_text().split("\n## ")[1:]
    for section in sections:
        name, _, rest = section.partition("\n\n")
        assert rest[:1].isalpha(), name
    assert len(sections) > 20


def undocumented(value: Any, schema: dict[str, Any], kinds: dict[str, Any]) -> list[str]:
    """The keys of a JSON value that its schema does not have."""
    if reference := schema.get("$ref"):
        schema = kinds[reference.rpartition("/")[2]]
    if choices := schema.get("anyOf"):
        return min((undocumented(value, choice, kinds) for choice in choices), key=len)
    if isinstance(value, list):
        return [key for part in value for key in undocumented(part, schema.get("items", {}), kinds)]
    if not isinstance(value, dict):
        return []
    properties, other = schema.get("properties", {}), schema.get("additionalProperties")
    unknown = [key for key in value if key not in properties and other is None]
    parts = [(part, properties.get(key, other or {})) for key, part in value.items()]
    return unknown + [key for part, about in parts for key in undocumented(part, about, kinds)]


def test_every_key_of_a_record_is_in_the_schema() -> None:
    schema = json.loads((DOCS / "schema.json").read_text())
    written = msgspec.to_builtins(record())
    assert undocumented(written, {"$ref": "#/$defs/Record"}, schema["$defs"]) == []
    written["launches"][0]["steptime"] = []
    assert undocumented(written, {"$ref": "#/$defs/Record"}, schema["$defs"]) == ["steptime"]


def test_a_written_file_reads_back_as_the_same_structs() -> None:
    text = json.dumps(file_of({NAME: record()}, failed=["x"]))
    file = msgspec.json.decode(text, type=SavedFile)
    assert file.benchmarks[0].extra_info.dnnbench == record()
    assert file.dnnbench is not None
    assert file.dnnbench.failed == ["x"]
