"""What people read about poolctl is what it does: the tables, options, links and scenario keys."""

import re
import runpy
import tomllib
from pathlib import Path

import click
import pytest

from poolctl.cli import poolctl
from poolctl.pool import LIBRARIES, NOT_MODELED
from poolctl.scenario.scenario import BUILT_IN_QUERIES, EVENTS, LEAK_SHAPES, VIAS, parse_scenario
from poolctl.stacks.registry import STACKS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
SCENARIO_PAGE = ROOT / "docs" / "scenario.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
OPTIONS_OF_OTHERS = {"--help", "--outdir"} | {
    *("--poolctl", "--poolctl-timeout", "--poolctl-threshold", "--poolctl-allow", "--shop"),
    *("--rm", "--restart", "--image", "--env", "--replicas", "--worker-port", "--nanny-port", "--no-dashboard"),
    *("--protocol", "--port", "--nworkers", "--nthreads"),
}
"""Options of other programs that the documents name, such as pytest with the plugin, kubectl and Dask."""

LINK = re.compile(r"\]\(([^)\s]+)\)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """Return what stands between fences of that language in a page."""
    return [text for named, text in BLOCK.findall(page.read_text(encoding="utf-8")) if named == language]


def scenario_block() -> str:
    (block,) = blocks(SCENARIO_PAGE, "toml")
    return str(block)


def table_rows(heading: str) -> list[list[str]]:
    """The cells of the table below ``heading`` in docs/pools.md, without its header."""
    text = (ROOT / "docs" / "pools.md").read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1].split("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_the_page_of_pools_is_what_the_presets_say() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "pool_table.py"))["page"]()

    assert (ROOT / "docs" / "pools.md").read_text(encoding="utf-8") == page, (
        "docs/pools.md is out of date: run docs/pool_table.py"
    )


def test_the_page_of_findings_is_what_the_catalog_says() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "findings.py"))["page"]()

    assert (ROOT / "docs" / "findings.md").read_text(encoding="utf-8") == page, (
        "docs/findings.md is out of date: run docs/findings.py"
    )


@pytest.mark.parametrize("heading", ["Settings", "Behavior"])
def test_every_pool_has_one_full_row(heading: str) -> None:
    rows = table_rows(heading)

    assert [row[0] for row in rows] == [f"`{name}`" for name in LIBRARIES]
    assert len({len(row) for row in rows}) == 1
    # The last column of Settings may be empty: not every library has more settings.
    assert all(cell for row in rows for cell in row[:-1])


def test_every_name_that_a_library_has_for_a_setting_is_told() -> None:
    told = {row[0].strip("`"): " ".join(row) for row in table_rows("Settings")}

    missing = [
        (kind.name, native)
        for kind in LIBRARIES.values()
        for native in kind.native.values()
        if f"`{native.partition(' (')[0]}`" not in told[kind.name]
    ]
    assert missing == []


def test_every_refused_pool_is_told_with_the_reason() -> None:
    assert table_rows("Refused") == [[f"`{name}`", why] for name, why in NOT_MODELED.items()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]

    broken = [target for target in targets if not (page.parent / target.partition("#")[0]).exists()]
    assert broken == []


def test_every_option_in_the_documents_exists() -> None:
    known = {
        name
        for command in (poolctl, *poolctl.commands.values())
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    mentioned = {
        option
        for page in PAGES
        for line in page.read_text(encoding="utf-8").splitlines()
        if "poolctl " in line or line.lstrip().startswith(("| `-", "- ")) or "`--" in line
        for option in OPTION.findall(line)
    }

    assert mentioned - known - OPTIONS_OF_OTHERS == set()
    assert {"--leak", "--relief"} <= mentioned


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_options_in_a_page_are_those_of_the_commands(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    made = runpy.run_path(str(ROOT / "docs" / "options.py"), run_name="options")["page"](text)

    assert text == made, f"{page.name} is out of date: run docs/options.py"


def test_simulate_inspect_and_recommend_have_their_options_in_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)

    for command in ("simulate", "inspect", "recommend"):
        assert f"<!-- options: {command} -->" in text


def test_every_command_in_the_documents_names_files_that_exist() -> None:
    commands = [
        line
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block.splitlines()
        if line.startswith("poolctl ")
    ]
    files = [word for line in commands for word in line.partition("#")[0].split() if word.startswith("examples/")]

    assert [file for file in files if not (ROOT / file).exists()] == []
    assert len(commands) > 20


def test_the_page_of_json_is_what_the_schemas_say() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "schema_page.py"))["page"]()

    assert (ROOT / "docs" / "json.md").read_text(encoding="utf-8") == page, (
        "docs/json.md is out of date: run docs/schema_page.py"
    )


def test_the_scenario_in_its_page_is_accepted_as_it_stands() -> None:
    scenario = parse_scenario(tomllib.loads(scenario_block()))

    assert scenario.name == "six instances after the deploy"


def test_every_choice_that_the_scenario_page_lists_is_one() -> None:
    known = {
        "via": set(VIAS),
        "query": set(BUILT_IN_QUERIES) | {"an SQL statement"},
        "do": set(EVENTS),
        "shape": set(LEAK_SHAPES),
    }
    listed = {
        key: {choice.strip() for choice in choices.split("|")}
        for key, choices in re.findall(r"^(\w+) = .*# (.* \| .*)$", scenario_block(), re.MULTILINE)
    }

    assert listed.keys() >= {"kind", "via", "query", "do"}
    for key, choices in listed.items():
        assert choices <= known.get(key, set(LIBRARIES)), key


def test_what_the_scenario_page_leaves_out_of_a_line_can_be_put_there() -> None:
    """An alternative that a comment names is accepted too, not only the value beside it."""
    values = tomllib.loads(scenario_block())
    load = values["load"] | {"rate": 200.0}
    del load["workers"]

    assert parse_scenario(values | {"load": load}).load.rate == 200.0
    assert parse_scenario(values | {"pool": values["pool"] | {"max_open": 0}}).pool.max_open == 0
    assert parse_scenario(values | {"pool": values["pool"] | {"max_lifetime": "off"}}).pool.max_lifetime is None


def test_the_counts_in_the_documents_are_those_of_the_code() -> None:
    written = {
        "README.md": [(r"virtual time \[(\d+) libraries\]", len(LIBRARIES))],
        "docs/simulate.md": [(r"knows \[(\d+) pools\]", len(LIBRARIES))],
        "docs/recommend.md": [(r"\*\*(\d+) libraries and poolers\*\*", len(STACKS))],
    }
    for page, counts in written.items():
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        for pattern, count in counts:
            assert [int(number) for number in re.findall(pattern, text)] == [count], (page, pattern)
