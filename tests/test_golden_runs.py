"""The model's figures are those that were kept: all of them in the compiled kernel, a part in the readable model too.

A line that differs shows a change of figures. ``python tests/golden_runs.py`` renews them, see there.
"""

import pytest
from golden_runs import KEPT, golden_lines, golden_scenarios, line_of

from poolctl.engines.model import compiled, simulate

PLAIN = ("library ", "random 1", "random 5", "model/burst")
"""Names of the runs that the readable model is held to as well begin so."""


def kept_lines() -> list[str]:
    return KEPT.read_text(encoding="utf-8").splitlines()


@pytest.mark.skipif(not compiled.is_there(), reason="the compiled kernel of this version is not built")
def test_every_example_library_and_random_scenario_gives_the_figures_that_were_kept() -> None:
    assert list(golden_lines()) == kept_lines()


def test_the_readable_model_gives_the_kept_figures_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.SWITCH, "plain")
    chosen = {name: scenario for name, scenario in golden_scenarios() if name.startswith(PLAIN)}

    assert [line_of(name, simulate(scenario)) for name, scenario in chosen.items()] == [
        line for line in kept_lines() if line.startswith(PLAIN)
    ]
