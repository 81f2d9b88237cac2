"""The HTML of every report in a real browser: no error, no request, nothing foreign that acts, readable on a phone."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import inspections
import pytest
import recommendations
import report_batches as batches
import report_fleets as fleets
import report_runs as runs
from report_browser import Browser, running
from report_parts import HOSTILE

from poolctl.api.results import SimulateResult, Variant
from poolctl.report.build import Result
from poolctl.report.files import write_report

HOSTILE_VARIANTS = (
    Variant(f"<img src=x onerror=document.title='owned'> {HOSTILE}", *runs.hostile()),
    Variant("`</script><script>document.title='owned'</script>`", *runs.leaking()),
)
PAGES: dict[str, Callable[[], Result]] = {
    "leaking": lambda: SimulateResult("live", (Variant("", *runs.leaking()),)),
    "refused_fleet": lambda: SimulateResult("live", (Variant("", *runs.refused_fleet()),)),
    "hostile_run": lambda: SimulateResult("live", (Variant("", *runs.hostile()),)),
    "comparison": lambda: SimulateResult("live", HOSTILE_VARIANTS, is_comparison=True),
    "sweep": lambda: SimulateResult("model", batch=batches.grid_of_two()),
    "replications": lambda: SimulateResult("model", batch=batches.replications()),
    "inspection": inspections.leaking,
    "relieved": inspections.relieved,
    "undetermined": inspections.undetermined,
    "many": inspections.many,
    "hostile_inspection": inspections.hostile,
    "recommendation": recommendations.balanced,
    "refusal": recommendations.slow,
    "hostile_recommendation": recommendations.hostile,
    "fleet": fleets.over_budget,
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_without_an_error_or_a_request_and_fits_a_phone_in_both_color_schemes(
    name: str, browser: Browser, tmp_path: Path
) -> None:
    result = PAGES[name]()
    path = tmp_path / f"{name}.html"
    write_report(path, result, repeat=f"poolctl simulate --set name='{HOSTILE}'")
    browser.complaints.clear()
    browser.requests.clear()
    grounds = {}

    for scheme in ("light", "dark"):
        for width in (1000, 400):
            browser.open(path, width=width, scheme=scheme)

            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            assert browser.evaluate("document.title").startswith("poolctl: ")
            # The only script is data, and no element has a handler.
            assert browser.evaluate("document.scripts.length") == 1
            handlers = (
                "[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames()).filter(n => /^on/.test(n))"
            )
            assert browser.evaluate(f"{handlers}.length") == 0
        grounds[scheme] = browser.evaluate("getComputedStyle(document.body).backgroundColor")

    assert browser.complaints == []
    assert browser.requests == []
    assert grounds == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}
    assert json.loads(browser.evaluate("document.getElementById('poolctl-data').textContent")) == json.loads(
        result.to_json()
    )


def test_the_browser_of_these_tests_notices_a_request_and_an_error(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text("<img src='http://127.0.0.1:9/x.png'><script>throw Error('broken')</script>", encoding="utf-8")
    browser.complaints.clear()
    browser.requests.clear()

    browser.open(path)

    assert browser.requests == ["http://127.0.0.1:9/x.png"]
    assert any("broken" in complaint for complaint in browser.complaints)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["leaking", "inspection", "recommendation", "sweep"])
def test_every_text_stands_out_from_its_ground(name: str, scheme: str, browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.html"
    write_report(path, PAGES[name](), repeat="poolctl simulate")

    browser.open(path, scheme=scheme)

    assert browser.evaluate(FAINTEST) >= 4.5  # WCAG 2, level AA


FAINTEST = """(() => {
  const numbers = color => (color.match(/[\\d.]+/g) || []).map(Number);
  const light = color => numbers(color).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (numbers(color)[3] !== 0) return color;
    }
    return 'rgb(255, 255, 255)';
  };
  let least = 21;
  for (const e of document.querySelectorAll('h1, h2, h3, p, dt, dd, th, td, pre, span.word, .quiet, .note')) {
    if (!e.textContent.trim()) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
    least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return least;
})()"""
"""The lowest contrast of a text with the ground behind it."""
