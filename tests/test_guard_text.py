"""The guard's report on a terminal: broken between words, with what follows below its label."""

import pytest
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
