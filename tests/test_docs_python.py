"""docs/python.md: every example runs, in order, and prints what the page says."""

import doctest
import re
from pathlib import Path

import pytest

from poolctl.engines.sandbox import Sandbox

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "python.md"
BLOCK = re.compile(r"^```pycon\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.server
def test_every_example_of_the_python_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    # Blank lines keep each block's last output apart from the next block.
    text = "\n".join(BLOCK.findall(PAGE.read_text(encoding="utf-8")))
    said: list[str] = []

    with Sandbox.start(max_connections=20, reserved=3) as sandbox:
        examples = doctest.DocTestParser().get_doctest(
            text, {"conninfo": sandbox.observer_conninfo}, PAGE.name, str(PAGE), 0
        )
        runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
        result = runner.run(examples, out=said.append)

    assert result.failed == 0, "".join(said)
    assert result.attempted > 20
