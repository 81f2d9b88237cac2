"""The catalog holds every finding once, and every place in the tree takes what it knows of a finding from there."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner
from finding_examples import render

from poolctl.cli import main, poolctl
from poolctl.diagnose import catalog, sql
from poolctl.diagnose.catalog import CATALOG, build_finding, find
from poolctl.diagnose.examples import EXAMPLES
from poolctl.errors import BadInput

ROOT = Path(__file__).parents[1] / "poolctl"
BUILDERS = ("build_finding", "_doubt", "find")
"""Functions that take a code as their first argument."""
PLACES = {"diagnose/live": "inspect", "diagnose/run": "simulate", "sizing": "recommend", "guard": "guard"}


@cache
def nodes() -> tuple[tuple[str, ast.Call | ast.Compare], ...]:
    """Each call and each comparison of the tree, with the file. Parsing all of it takes a second."""
    return tuple(
        (file.relative_to(ROOT).as_posix(), node)
        for file in sorted(ROOT.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call | ast.Compare)
    )


def calls() -> Iterator[tuple[str, str]]:
    """Each code that is given to a function as a string, with the file."""
    for file, node in nodes():
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        given = [keyword.value for keyword in node.keywords if keyword.arg == "code" and name != "click"]
        given += node.args[:1] if name in BUILDERS and isinstance(node.func, ast.Name) else []
        for value in given:
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield file, value.value


def compared() -> Iterator[tuple[str, str]]:
    """Each string that something called code, or a set of reported codes, is compared with."""
    for file, node in nodes():
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        if any(ast.unparse(side).endswith(("finding.code", "worst.code", ".reported")) for side in sides):
            for side in sides:
                for part in ast.walk(side):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield file, part.value


def test_every_code_in_the_tree_is_in_the_catalog() -> None:
    codes = {code for _, code in calls()}

    assert [pair for pair in (*calls(), *compared()) if pair[1] not in CATALOG] == []
    assert len(codes) > 40


def test_a_finding_is_built_from_the_catalog_and_nowhere_else() -> None:
    builders = [
        file
        for file, node in nodes()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding"
    ]

    assert builders == ["diagnose/catalog.py"]


def test_every_entry_says_who_reports_it() -> None:
    reported = {
        (code, command) for file, code in calls() for place, command in PLACES.items() if file.startswith(f"{place}/")
    }

    assert [pair for pair in sorted(reported) if pair[1] not in find(pair[0]).reported_by] == []


@pytest.mark.parametrize("code", CATALOG)
def test_every_entry_is_complete(code: str) -> None:
    entry = find(code)
    texts = (entry.title, entry.meaning, entry.signs, entry.mistaken_for, entry.remedy, entry.decided_by)

    assert all(text and text == text.strip() for text in texts)
    assert not entry.title.endswith(".")
    assert all(text.endswith(".") for text in texts[1:])


def test_the_sql_of_every_entry_is_one_of_the_known_statements() -> None:
    known = {value for name, value in vars(sql).items() if name.isupper()}

    assert {statement for entry in CATALOG.values() for statement in entry.sql} == known - {sql.LINKS}


def test_no_two_causes_have_the_same_place_in_the_relief_plan() -> None:
    order = sorted(catalog.RELIEF_ORDER.values())

    assert order == list(range(1, len(order) + 1))
    assert min(catalog.RELIEF_ORDER, key=lambda code: catalog.RELIEF_ORDER[code]) == "lock-queue"
    assert not catalog.COME_BACK & catalog.RELIEF_ORDER.keys()


def test_a_finding_takes_from_the_catalog_what_its_rule_does_not_give() -> None:
    finding = build_finding("slow-reader", severity="warning", confidence="certain", summary="3 wait")
    other = build_finding("slots-low", severity="warning", confidence="likely", summary="9 of 10", evidence_sql=None)

    assert (finding.layer, finding.remedy, finding.evidence_sql) == (
        "application",
        CATALOG["slow-reader"].remedy,
        sql.UNREAD,
    )
    assert other.evidence_sql is None


@pytest.mark.parametrize("code", CATALOG)
def test_the_example_of_every_finding_is_what_poolctl_prints(code: str) -> None:
    assert EXAMPLES[code] == f"{render(code)}\n", "out of date: python tests/finding_examples.py"


@pytest.mark.parametrize("code", CATALOG)
def test_explaining_a_finding_shows_its_meaning_its_remedy_its_example_and_its_sql(code: str) -> None:
    answer = CliRunner().invoke(poolctl, ["inspect", "--explain", code])

    words = " ".join(answer.stdout.split())
    assert answer.exit_code == 0
    assert all(" ".join(text.split()) in words for _, text in catalog.describe(CATALOG[code]))
    assert EXAMPLES[code] in answer.stdout
    assert all(statement in answer.stdout for statement in CATALOG[code].sql)


def test_explaining_an_unknown_code_is_wrong_usage_and_names_the_near_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["inspect", "--explain", "leak-in-transactoin"])

    assert error.value.code == 2
    assert "leak-in-transaction" in capsys.readouterr().err


def test_an_unknown_code_names_the_near_ones() -> None:
    with pytest.raises(BadInput, match="there is no finding 'leek'") as error:
        find("leek")

    assert error.value.hint == "did you mean leak?"


def test_a_code_that_is_near_to_none_gets_the_list() -> None:
    with pytest.raises(BadInput) as error:
        find("zzz")

    assert "slots-exhausted" in error.value.hint
