"""The page docs/json.md, generated from the JSON schemas: what ``--json`` prints, key by key.

python docs/schema_page.py > docs/json.md
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COMMANDS = ("simulate", "inspect", "recommend", "guard")

HEAD = """\
# What `--json` prints

Generated from the schemas by docs/schema_page.py.

Standard output holds exactly one JSON document, also when the command fails; everything else goes to standard error.
Keys may be added; none is renamed or dropped without a new `schema_version`. Times are float seconds, rates are per
second, sizes are counts. `null` means: not known. The Python API gives the same documents: `result.to_json()`. `guard`
passes on the exit code of the command that it runs.

| Exit code | Means |
| --- | --- |
| 0 | done |
| 1 | a finding at or above `--fail-on` |
| 2 | wrong usage, or a file that cannot be used |
| 3 | could not do the job: no connection, not enough privilege, a program that is missing |
| 70 | an error inside poolctl; `POOLCTL_TRACEBACK=1` shows the rest |
| 130 | interrupted; what was measured until then is in the document |
"""


def page() -> str:
    """Return the whole page as Markdown."""
    return "\n".join([HEAD, *(section(command) for command in COMMANDS)])


def section(command: str) -> str:
    """Return the part of the page about one command: its document, and each part that is used more than once."""
    (file,) = ROOT.glob(f"poolctl/**/{command}.schema.json")
    schema = json.loads(file.read_text(encoding="utf-8"))
    parts = [f"## {command}\n\n{schema['description']}\n\n{table(schema)}"]
    for name, part in schema.get("$defs", {}).items():
        if part.get("properties"):
            parts.append(
                f"### {command}: {name}\n\n{part.get('description', '')}\n\n{table(part)}".replace("\n\n\n", "\n")
            )
    return "\n".join(parts)


def table(node: dict[str, Any]) -> str:
    """Return a Markdown table of the keys below ``node``."""
    rows = [f"| `{path}` | {kind} | {words} |" for path, kind, words in rows_of(node, "")]
    return "\n".join(["| Key | Type | Meaning |", "| --- | --- | --- |", *rows]) + "\n"


def rows_of(node: dict[str, Any], path: str) -> Iterator[tuple[str, str, str]]:
    """Yield path, type and meaning of every key below ``node``; parts that stand elsewhere are named, not repeated."""
    for name, value in node.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        inner = value
        if isinstance(value.get("items"), dict):
            here, inner = f"{here}[]", value["items"]
        yield here, kind_of(inner), value.get("description", inner.get("description", "")).replace("|", "\\|")
        yield from rows_of(inner, here)


def kind_of(node: dict[str, Any]) -> str:
    """Return the type of a key as a reader says it: "number or null", or its allowed values."""
    if "$ref" in node:
        return f"see {node['$ref'].rpartition('/')[2]} below"
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return ", ".join(f"`{value}`" if value is not None else "null" for value in node["enum"])
    kind = node.get("type", "any")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


if __name__ == "__main__":
    sys.stdout.write(page())
