"""The shop of examples/guard has three leaks that the guard names; docs/guard.md and README.md show the screen."""

import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from guard_runs import ROOT
from guard_suites import QUIET

pytestmark = pytest.mark.server
SHOP = ROOT / "examples" / "guard"


@pytest.fixture
def shop_environment(environment: dict[str, str]) -> dict[str, str]:
    return environment | {
        "DATABASE_URL": environment["GUARD_URL"],
        "COLUMNS": "100",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def run_shop(environment: dict[str, str], *options: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "pytest", "-q", *QUIET, "-p", "no:cacheprovider", *options]
    finished = subprocess.run(
        [sys.executable, "-m", "poolctl", "guard", "--", *command],
        cwd=SHOP,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return finished.returncode, finished.stdout, finished.stderr


def without_times(text: str) -> str:
    return re.sub(r"[\d.]+ ?(µs|ms|s)\b", "TIME", text).strip()


def screen(name: str) -> str:
    page = Path(ROOT / "docs" / "guard.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- screen: {name} -->\n```text\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1]


def excerpt_of_the_readme() -> str:
    text = Path(ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"\$ poolctl guard -- pytest\n\[\.\.\.\]\n(.*?)\[\.\.\.\]", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_pages_show_what_the_guard_says_of_the_shop(shop_environment: dict[str, str]) -> None:
    code, out, err = run_shop(shop_environment)

    assert code == 1
    assert without_times(out) == without_times(screen("pytest"))
    assert without_times(screen("guard")) in without_times(err)
    assert without_times(excerpt_of_the_readme()) in without_times(out)


def test_the_fixed_shop_has_no_leak(shop_environment: dict[str, str]) -> None:
    code, out, err = run_shop(shop_environment, "--shop", "fixed")

    assert code == 0, out
    assert "poolctl guard: nothing wrong" in err


def test_without_the_guard_every_test_of_the_shop_passes(shop_environment: dict[str, str]) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *QUIET, "-p", "no:cacheprovider"],
        cwd=SHOP,
        env=shop_environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert "4 passed" in finished.stdout


def test_the_shop_leaves_tables_of_the_same_names_alone(shop_environment: dict[str, str]) -> None:
    with psycopg.connect(shop_environment["DATABASE_URL"], autocommit=True) as own:
        own.execute("CREATE TABLE public.orders (kept int)")
        run_shop(shop_environment, "--shop", "fixed")
        columns = own.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'public.orders'::regclass AND attnum > 0"
        ).fetchall()
        own.execute("DROP TABLE public.orders")

    assert columns == [("kept",)]


def test_without_a_database_the_shop_says_how_to_name_one(environment: dict[str, str]) -> None:
    code, out, _ = run_shop({name: value for name, value in environment.items() if name != "DATABASE_URL"})

    assert code == 2
    assert "DATABASE_URL is not set" in out
