"""The guard's report on a terminal: broken between words, with what follows below its label."""

from pathlib import Path

import pytest
from guard_runs import run_program
from guard_scenes import SCENES, render_scene

from poolctl.guard.guard_text import wrap_line


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("code", SCENES)
def test_a_report_is_broken_between_words_and_loses_none(code: str, width: int) -> None:
    for line in render_scene(SCENES[code]).splitlines():
        parts = wrap_line(line, width)

        assert " ".join(parts).split() == line.split()
        assert all(len(part) <= width or len(part.split()) == 1 for part in parts)


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (
            "Do      Release the connection on every path",
            ["Do      Release the", "        connection on every", "        path"],
        ),
        (
            "  state     idle in transaction (SELECT 1)",
            ["  state     idle in transaction", "            (SELECT 1)"],
        ),
        ("WARNING  1 connection was never released", ["WARNING  1 connection was", "  never released"]),
        ("  /a/very/long/path/of/a/program.py:12", ["  /a/very/long/path/of/a/program.py:12"]),
        ("", [""]),
    ],
)
def test_what_follows_stands_below_its_label(line: str, parts: list[str]) -> None:
    assert wrap_line(line, 32 if "state" in line else 28) == parts


def test_two_callers_of_one_wrapper_are_shown_each_with_their_own_thread(
    environment: dict[str, str], tmp_path: Path
) -> None:
    program = """
import os, threading
import psycopg_pool
pool = psycopg_pool.ConnectionPool(os.environ["GUARD_DSN"], min_size=2, max_size=3, open=True)
kept = []
def acquire():
    kept.append(pool.getconn())
def first():
    acquire()
def second():
    acquire()
for work in (first, second):
    thread = threading.Thread(target=work, name=f"the-{work.__name__}")
    thread.start()
    thread.join()
"""
    result = run_program(program, environment, tmp_path, options=())

    said = result.stdout + result.stderr
    for line, name in ((9, "first"), (11, "second")):
        assert f"acquired  program.py:7 in acquire, called from program.py:{line}" in said
        assert f"thread the-{name}, which has ended" in said
