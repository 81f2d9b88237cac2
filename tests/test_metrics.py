"""Metrics, alerts and the dashboard: promtool accepts all three, incidents that were recorded raise their alert, and
healthy systems that look like them raise none."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import inspections
import pytest
from test_diagnose_live_floor import observe

from poolctl.api.inspect import inspect
from poolctl.api.results import InspectResult
from poolctl.diagnose.live.diagnose import diagnose
from poolctl.report.metrics import MOST_SERIES, write_metrics

ROOT = Path(__file__).parents[1]
RULES, DASHBOARD = ROOT / "examples" / "poolctl-alerts.yml", ROOT / "examples" / "poolctl-dashboard.json"
RECORDINGS = sorted((ROOT / "tests" / "recordings").glob("*.jsonl"))
PROMTOOL = shutil.which("promtool")

needs_promtool = pytest.mark.skipif(
    PROMTOOL is None and "POOLCTL_REQUIRE_SERVERS" not in os.environ, reason="no promtool here"
)

SERIES = re.compile(r"(\w+)(\{.*\})? (\S+)")


def promtool(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(
        [PROMTOOL or "promtool", *arguments], input=text, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def read(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found = [SERIES.fullmatch(line) for line in lines]
    assert None not in found
    return {match[1] + (match[2] or ""): float(match[3]) for match in found if match is not None}


@needs_promtool
@pytest.mark.parametrize("build", inspections.ALL, ids=lambda build: build.__name__)
def test_promtool_accepts_the_metrics_of_any_inspection(build: Any) -> None:
    promtool("check", "metrics", text=write_metrics(build(), "1.0"))


def test_the_metrics_of_a_leak_are_as_reviewed() -> None:
    series = read(write_metrics(inspections.leaking(), "1.0"))

    assert series['poolctl_verdict{code="leak-in-transaction",severity="critical",confidence="certain",layer='
                  '"application"}'] == 1  # fmt: skip
    assert series['poolctl_suspected_leaks{application="shop-api",confidence="certain"}'] == 80
    assert series['poolctl_limit_free_connections{name="max_connections",scope="server"}'] == 0
    assert series['poolctl_up{source="postgres",target="db1.test:5432/shop"}'] == 1
    assert not any(name.startswith("poolctl_waiting_clients") for name in series)


def test_before_the_first_sample_only_poolctl_is_up() -> None:
    assert read(write_metrics(None, "1.0")) == {'poolctl_build_info{version="1.0"}': 1}


def test_the_number_of_series_is_bounded_and_no_series_comes_twice() -> None:
    text = write_metrics(inspections.many(), "1.0")
    names = [line.partition("{")[0] for line in text.splitlines() if not line.startswith("#")]

    assert max(map(names.count, names)) <= MOST_SERIES
    assert len(read(text)) == len(names)


@needs_promtool
def test_promtool_accepts_the_alerts() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(RULES))


EXPECTED = {"critical": "PoolctlCritical", "warning": "PoolctlWarning"}


def expect_alerts(findings: Any) -> set[tuple[str, str]]:
    """The alerts that the findings of one diagnosis raise once they have lasted."""
    return {
        ("PoolctlUndetermined" if each.confidence == "undetermined" else EXPECTED[each.severity], each.code)
        for each in findings
        if each.severity in EXPECTED
    }


def lasting(series: dict[str, float], name: str, alerts: set[tuple[str, str]], *, minutes: int = 90) -> dict[str, Any]:
    """A test of promtool: the metrics stay as they are for so long, and these alerts fire in the end."""
    values = {
        key: f"0+60x{minutes}" if key.startswith("poolctl_last_sample") else f"{value:.17g}x{minutes}"
        for key, value in series.items()
    }
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": key, "values": value} for key, value in values.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname, code) (ALERTS{alertstate="firing"})',
                "eval_time": f"{minutes}m",
                "exp_samples": [
                    {"labels": "{" + ", ".join(f'{k}="{v}"' for k, v in labels if v) + "}", "value": 1}
                    for labels in ([("alertname", alert), ("code", code)] for alert, code in sorted(alerts))
                ],
            }
        ],
    }


def run_rules(folder: Path, *tests: dict[str, Any]) -> None:
    # JSON is YAML, too.
    file = folder / "tests.yml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": list(tests)}))
    promtool("test", "rules", str(file))


@needs_promtool
def test_recorded_incidents_raise_their_alert_and_healthy_systems_none(tmp_path: Path) -> None:
    tests, raised = [], {}
    for path in RECORDINGS:
        result = inspect(replay=path)
        alerts = expect_alerts(result.findings)
        if any(not each.ok and each.kind != "host" for each in result.observation.sources):
            alerts |= {("PoolctlSourceDown", "")}
        raised[path.stem] = alerts
        tests.append(lasting(read(write_metrics(result, "1.0")), path.stem, alerts))

    run_rules(tmp_path, *tests)
    assert raised["a_busy_pool_is_healthy"] == raised["one_long_report_is_healthy"] == set()
    assert sum(bool(alerts) for alerts in raised.values()) == len(RECORDINGS) - 2


@needs_promtool
def test_a_moment_raises_nothing_and_one_that_wavers_is_one_alert(tmp_path: Path) -> None:
    finding = 'poolctl_finding{code="slots-exhausted",severity="critical",confidence="certain",layer="database"}'
    fires = {"expr": 'count(ALERTS{alertstate="firing"})', "exp_samples": [{"labels": "{}", "value": 1}]}
    never: dict[str, Any] = {"expr": 'count(ALERTS{alertstate="firing"})', "exp_samples": []}

    def play(values: str, **checks: dict[str, Any]) -> dict[str, Any]:
        return {
            "interval": "30s",
            "input_series": [{"series": finding, "values": values}],
            "promql_expr_test": [check | {"eval_time": at.removeprefix("at_")} for at, check in checks.items()],
        }

    run_rules(
        tmp_path,
        play("_x10 1 stale", at_5m=never, at_6m=never, at_10m=never),
        play("1x4 stale 1x4 stale 1x4 stale", at_2m=fires, at_3m=fires, at_5m=fires, at_9m=fires, at_20m=never),
    )


@needs_promtool
def test_a_floor_that_rises_a_source_that_is_down_and_a_service_that_stopped(tmp_path: Path) -> None:
    server = 'name="max_connections",scope="server"'
    rising = {f'poolctl_limit_exhausted_seconds{{{server},bound="earliest"}}': 90_000.0}
    slow = {f'poolctl_limit_exhausted_seconds{{{server},bound="earliest"}}': 900_000.0}
    moment = {f'poolctl_limit_exhausted_seconds{{{server},bound="estimate"}}': 50.0}
    down = {'poolctl_up{source="postgres",target="db1"}': 0.0, 'poolctl_up{source="host",target="this machine"}': 0.0}
    stopped = lasting({}, "stopped", {("PoolctlBlind", "")})
    stopped["input_series"] = [{"series": "poolctl_last_sample_timestamp_seconds", "values": "0x90"}]

    run_rules(
        tmp_path,
        lasting(rising, "rising", {("PoolctlSlotsRunOut", "")}),
        lasting(slow, "slow", set()),
        lasting(moment, "moment", set()),
        lasting(down, "down", {("PoolctlSourceDown", "")}),
        lasting({"poolctl_last_sample_timestamp_seconds": 0.0}, "fresh", set()),
        stopped,
    )


def list_queries() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def list_names() -> set[str]:
    """Every metric that there is."""
    return set(re.findall(r'Metric\(\s*"(\w+)"', (ROOT / "poolctl" / "report" / "metrics.py").read_text()))


def test_dashboard_and_alerts_use_metrics_that_exist_and_the_page_names_all() -> None:
    used = {name for query in [*list_queries(), RULES.read_text()] for name in re.findall(r"poolctl_\w+", query)}
    page = (ROOT / "docs" / "alerts.md").read_text()

    assert used <= list_names()
    assert {name for name in list_names() if f"`{name}`" not in page} == set()
    assert {name for name in re.findall(r"alert: (\w+)", RULES.read_text()) if f"`{name}`" not in page} == set()


@needs_promtool
def test_promtool_can_read_every_query_of_the_dashboard(tmp_path: Path) -> None:
    records = [
        {"record": f"query:number:{number}", "expr": query.replace("$instance", ".*")}
        for number, query in enumerate(list_queries())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": records}]}))

    promtool("check", "rules", str(file))


@needs_promtool
def test_every_query_of_the_dashboard_shows_something_of_recorded_incidents(tmp_path: Path) -> None:
    results = {path.stem: inspect(replay=path) for path in RECORDINGS}
    rising = observe(24.0, 1.0, 40)
    results["rising"] = InspectResult(rising, diagnose(rising), None)
    series = {}
    for instance, result in results.items():
        for key, value in read(write_metrics(result, "1.0")).items():
            name, _, labels = key.partition("{")
            series[f'{name}{{instance="{instance}"{"," if labels else ""}{labels or "}"}'] = f"{value:.17g}x5"
    checks = [
        {"expr": f"absent({query.replace('$instance', '.*')})", "eval_time": "5m", "exp_samples": []}
        for query in list_queries()
    ]

    rows = [{"series": key, "values": values} for key, values in series.items()]
    run_rules(tmp_path, {"interval": "1m", "input_series": rows, "promql_expr_test": checks})
