"""An example screen of every finding: staged, run through the command line, and cut out of what poolctl prints.

Writes poolctl/diagnose/examples.py, which the page of findings and ``inspect --explain`` show; a test compares it:

python tests/finding_examples.py
"""

import io
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import wrap

import guard_scenes
import recommendations
from click.testing import CliRunner
from observations import (
    NOW,
    Row,
    Scene,
    bouncer,
    busy,
    calling,
    count_sessions,
    full_pool,
    host,
    played,
    pool,
    process,
    rows,
    server,
)

from poolctl.api.results import RecommendResult
from poolctl.cli import poolctl
from poolctl.diagnose.catalog import CATALOG
from poolctl.observe.recording import RecordingWriter
from poolctl.observe.snapshot import (
    ABORTED,
    IN_TRANSACTION,
    DatabaseCounters,
    Refusal,
    RoleFacts,
    Source,
    StatementCounters,
    TableCounters,
)
from poolctl.report.recommendation import build_recommendation_report
from poolctl.report.screen import open_screen
from poolctl.report.terminal import print_report

WIDTH = 96
LABELS = ("Who ", "Do ", "Why ", "Next ")

SCAN = "SELECT sum(amount) FROM orders WHERE customer_id = $1"
STATEMENTS = [[StatementCounters(1, "app", "app", SCAN, calls, time)] for calls, time in ((10, 5.0), (90, 45.0))]
TABLES = [[TableCounters("orders", 400_000, scans, scans * 400_000)] for scans in (10, 90)]
CHECKOUT = "SELECT * FROM cart WHERE id = $1 /*route='/checkout'*/"

UNPRIVILEGED = server(can_see_all=False)
FULL = Refusal("superuser-slots", "sorry, too many clients already", "53300", "InitProcess")
SAME_MOMENT = rows(8, state=IN_TRANSACTION, age=2.0, step=0.004)
PIDS = [100, 101, 102, 103, 104]

INSPECTED: dict[str, Scene] = {
    "healthy": Scene(busy(12), pools=[[pool(max_open=20, open=12, in_use=3, waiting=0)]]),
    "slots-exhausted": Scene([*rows(60, state=IN_TRANSACTION, age=4.0, step=1.0), *busy(37)]),
    "slots-low": Scene([*busy(60), *(Row(900 + i, age=0.2, opened=1.0, from_sample=3) for i in range(12))]),
    "role-limit": Scene(busy(6), facts=server(roles=(RoleFacts("app", connection_limit=6), RoleFacts("watcher")))),
    "fleet-over-budget": Scene(
        busy(24),
        pools=[[pool(max_open=30, open=4, in_use=1, waiting=0, labels={"pod": str(i)}) for i in range(6)]],
    ),
    "handshake-pile-up": Scene(
        [*(Row(300 + i, "starting", 5.0, opened=5.0, user="", database="", application="") for i in range(5)), *busy(4)]
    ),
    "leak": Scene(
        rows(14, age=40.0, step=3.0, application="checkout", query=CHECKOUT),
        samples=8,
        window=60.0,
        pools=[[pool(name="checkout", max_open=20, open=14, in_use=6 + i, waiting=0)] for i in range(8)],
    ),
    "leak-in-transaction": Scene(
        [*rows(12, state=IN_TRANSACTION, age=65.0, step=11.0, application="checkout", query=CHECKOUT), *busy(6)]
    ),
    "leak-or-long-hold": Scene(
        rows(10, age=8.0, step=2.0, application="checkout", query=CHECKOUT), pools=full_pool(10, 7, name="checkout")
    ),
    "long-hold": Scene(calling(8, 0.5), pools=full_pool(8, 5, acquired_total=700.0)),
    "held-across-io": Scene(calling(10, 0.4), pools=full_pool(10, 6)),
    "self-deadlock": Scene(SAME_MOMENT, pools=full_pool(8, 8)),
    "aborted-transaction": Scene([*rows(3, state=ABORTED, age=8.0, step=1.0, application="importer"), *busy(4)]),
    "slow-reader": Scene(rows(3, state="active", age=30.0, wait=("Client", "ClientWrite"), application="export")),
    "stuck-protocol": Scene(rows(2, state="active", age=200.0, wait=("Client", "ClientRead"), application="gateway")),
    "backends-beyond-pool": Scene(
        [*busy(10, 100), *rows(15, 200, age=300.0, step=40.0, query=CHECKOUT)],
        pools=[[pool(max_open=10, open=10, in_use=4, waiting=0)]],
        hosts=[
            host(
                *(process(40_000 + pid, 4242) for pid in (*range(100, 110), *range(200, 215))),
                scraped={"http://shop:9090/metrics": 4242},
            )
        ],
    ),
    "pool-slots-lost": Scene(busy(1), pools=full_pool(4, 5)),
    "frozen-clients": Scene(
        [*rows(5, age=9.0, application="worker"), Row(105, IN_TRANSACTION, age=9.0, application="worker"), *busy(4)],
        hosts=[host(*(process(40_100 + i, 77, status="stopped", command="python worker.py") for i in range(6)))],
    ),
    "orphaned-backends": Scene(
        [*rows(3, state="active", age=90.0, wait=("IO", "DataFileRead"), application="batch"), *busy(3)],
        hosts=[host(unowned_ports=(40_100, 40_101, 40_102))],
    ),
    "client-starved": Scene(
        rows(10, age=0.2, turns=3.0),
        pools=[
            [pool(max_open=10, open=10, in_use=0, waiting=0, timed_out_total=5.0 * i, loop_lag=0.8)] for i in range(7)
        ],
    ),
    "lock-queue": Scene(
        [
            Row(50, IN_TRANSACTION, age=6.0, application="migrator", query="ALTER TABLE stock ADD note text"),
            *rows(4, 300, state="active", age=3.0, wait=("Lock", "relation"), blocked_by=(50,)),
        ]
    ),
    "slow-database": Scene(
        [Row(100 + i, "active", age=0.01 * i + 0.02, turns=0.4, query=SCAN) for i in range(12)],
        hosts=[host(cores=2, server_cpu=1.9)],
        statements=STATEMENTS,
        tables=TABLES,
    ),
    "connection-churn": Scene(busy(4), databases=count_sessions(300, 300)),
    "reconnect-storm": Scene(
        [
            *(Row(100 + i, age=1.0, opened=8.0 + i * 0.01) for i in range(60)),
            *(Row(300 + i, "starting", age=1.5, opened=1.5, from_sample=4) for i in range(6)),
        ],
        started_at=NOW - 10.0,
    ),
    "pool-undersized": Scene(
        [Row(100 + i, "active", age=0.0001 * i, turns=0.003) for i in range(6)],
        hosts=[host(cores=16, server_cpu=1.9)],
        pools=full_pool(6, 9),
    ),
    "oversized-pool": Scene(
        [*rows(38, age=300.0, step=2.0), *busy(2)], pools=[[pool(max_open=40, open=40, in_use=1, waiting=0)]]
    ),
    "pooler-pinned-transaction": Scene(
        rows(5, state=IN_TRANSACTION, age=70.0, step=3.0, application=""), bouncers=[bouncer(PIDS)]
    ),
    "pooler-session-mode": Scene(rows(5, age=30.0, step=2.0), bouncers=[bouncer(PIDS, mode="session")]),
    "pooler-client-limit": Scene(
        [Row(100, age=3.0)],
        bouncers=[bouncer([100], waiting=0, config={"max_client_conn": "8"}, lists={"used_clients": 9})],
        refusal=Refusal("pooler-clients", "no more connections allowed (max_client_conn)", "08P01"),
    ),
    "connection-per-request": Scene([Row(100 + i, age=50.0 - 4 * i, opened=50.2 - 4 * i) for i in range(12)]),
    "waiting-unexplained": Scene(busy(4), pools=[[pool(max_open=10, open=4, in_use=4, idle=0, waiting=6)]]),
    "evidence-unread": Scene(
        busy(6), sources=(Source("pool-stats", "shop.prom", ok=False, reason="no figures of a pool among its metrics"),)
    ),
    "no-safety-net": Scene(
        busy(4), facts=server(superuser_reserved=0, roles=(RoleFacts("app", is_superuser=True), RoleFacts("watcher")))
    ),
    "partial-view": Scene(busy(8), hides=True, facts=UNPRIVILEGED),
}
"""What a live system looked like; ``poolctl inspect --replay`` reports it."""

NO_TIME = """
name = "no time"
[pool]
max_open = 5
[load]
workers = 5
hold = "0s"
duration = "10s"
"""
OVERLOAD = """
name = "overload"
[pool]
max_open = 5
[load]
rate = 100000
hold = "1s"
duration = "1m"
"""
SIMULATED = {"endless-load": NO_TIME, "endless-queue": OVERLOAD}
"""Scenario files for the model."""

FIGURES = "--arrival-rate 150 --hold-time 8ms --workers 4 --instances 8 --max-connections 100"
MEASURED = Scene([Row(100 + i, "active", age=0.01 * i, turns=0.09) for i in range(12)])
"""Twelve connections at work in three seconds."""


def count_work(*resets: float | None) -> list[list[DatabaseCounters]]:
    """Return the server's counters of little work, each with the time of the last reset."""
    return [
        [
            DatabaseCounters(
                "app", 12, 100 + 100 * i, active_time=1.0 + 0.2 * i, transaction_idle_time=0.0, reset_at=reset
            )
        ]
        for i, reset in enumerate(resets)
    ]


SHORT_SWEEP = "connections,throughput\n1,100\n2,200\n4,390\n8,780\n"
OTHER_UNIT = "connections,throughput,latency\n1,100,10\n2,200,10\n4,390,10\n8,500,16\n16,510,32\n"
CLIFF = "connections,throughput\n1,100\n4,390\n8,700\n16,900\n32,880\n64,610\n100,480\n"

RECOMMENDED: dict[str, str | Scene | RecommendResult] = {
    "hidden-by-pooler": replace(MEASURED, facts=server(is_behind_pooler=True)),
    "stats-reset": replace(MEASURED, databases=count_work(NOW - 9.0, NOW)),
    "estimates-disagree": replace(MEASURED, databases=count_work(*[None] * 7)),
    "demand-censored": replace(MEASURED, pools=[[pool(max_open=12, open=12, in_use=12, waiting=None)]]),
    "few-samples": MEASURED,
    "hold-unseen": MEASURED,
    "peak-unseen": MEASURED,
    "contention-cliff": CLIFF,
    "sweep-too-short": SHORT_SWEEP,
    "sweep-inconsistent": OTHER_UNIT,
    "demand-unknown": "",
    "capacity-unknown": "--arrival-rate 150 --hold-time 8ms",
    "wait-target-missed": "--arrival-rate 2000 --hold-time 8ms",
    "verification-failed": recommendations.unproven(),
}
"""What ``poolctl recommend`` is given: options, the table of a load test, or what it measured; or its result."""


def render(code: str) -> str:
    """Return the part of a real screen that shows a finding with this ``code``, wrapped."""
    if code in guard_scenes.SCENES:
        return cut_out_of_guard(code, guard_scenes.render_scene(guard_scenes.SCENES[code]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given"
        if code in INSPECTED:
            return cut_out(code, inspect(path, INSPECTED[code]))
        if code in SIMULATED:
            path.write_text(SIMULATED[code], encoding="utf-8")
            return cut_out(code, run("simulate", str(path), "--engine", "model", "--seed", "1"))
        return cut_out(code, recommend(path, RECOMMENDED[code]))


def inspect(path: Path, scene: Scene) -> str:
    record(path, scene)
    return run("inspect", "--replay", str(path))


def recommend(path: Path, given: str | Scene | RecommendResult) -> str:
    if isinstance(given, RecommendResult):
        out = io.StringIO()
        print_report(open_screen(out, "never", environ={}), build_recommendation_report(given))
        return out.getvalue()
    if isinstance(given, Scene):
        record(path, given)
        return run("recommend", "--recording", str(path))
    options = ["--instances", "8", "--max-connections", "100"]
    if given.startswith("connections"):
        path.write_text(given, encoding="utf-8")
        return run("recommend", "--sweep-file", str(path), "--arrival-rate", "150", "--hold-time", "8ms", *options)
    return run("recommend", *given.split(), *options)


def record(path: Path, scene: Scene) -> None:
    observation = played(scene)
    with RecordingWriter(path) as recorder:
        for snapshot in observation.snapshots:
            recorder.write(snapshot, observation)


def run(*arguments: str) -> str:
    answer = CliRunner().invoke(poolctl, [*arguments, "--quiet"])
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def cut_out_of_guard(code: str, screen: str) -> str:
    """Cut the paragraph of the finding out of a guard's report."""
    paragraph = next(part for part in screen.split("\n\n") if f"\n{code} (" in part)
    return "\n".join(wrapped for line in paragraph.splitlines() for wrapped in wrap_line(line))


def cut_out(code: str, screen: str) -> str:
    """Cut the finding's sentence, line and labeled paragraphs out of ``screen``."""
    lines = screen.splitlines()
    about = next((at for at, line in enumerate(lines) if line.startswith(f"{code} (")), None)
    if about is None:
        # A simulation has the verdict first, and the finding's line at the end.
        assert any(line.startswith(f"Why   {code} (") for line in lines), screen
        kept = [lines[0], *(line for line in lines if line.startswith(LABELS))]
    else:
        kept = lines[about - 1 : about + 1]
        for line in lines[about + 1 :]:
            if line and not line.startswith((*LABELS, "  ")):
                break
            kept += [line] if line else []
    return "\n".join(wrapped for line in kept for wrapped in wrap_line(line))


def wrap_line(line: str) -> Sequence[str]:
    lead = re.match(r"(?:[A-Z][a-z]+ +| +)?(?:\d+\. )?", line)
    indent = " " * len(lead[0] if lead else "")
    return wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def module() -> str:
    """Return the source of poolctl/diagnose/examples.py."""
    examples = "".join(f'    "{code}": """\\\n{quote(render(code))}\n""",\n' for code in CATALOG)
    return f"{HEAD}EXAMPLES: Mapping[str, str] = {{\n{examples}}}\n"


def quote(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


HEAD = '''"""Example screens of every finding, as poolctl prints them.

Made by tests/finding_examples.py, which says how each was staged. Do not edit: run it again.
"""

from collections.abc import Mapping

'''

if __name__ == "__main__":
    # Written at the end: while it runs, poolctl imports the file.
    (Path(__file__).parents[1] / "poolctl/diagnose/examples.py").write_text(module(), encoding="utf-8")
