"""A real PostgreSQL with the log_line_prefix of each platform, and its log in the wrappings in which people get it."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sandboxes import connect, eventually, one, own_temporary_directory
from watched import Clients, bindirs, speaking, started

from poolctl.observe.evidence.read import read_evidence
from poolctl.observe.snapshot import LogFacts

pytestmark = pytest.mark.server

PREFIXES = {
    "PostgreSQL": "%m [%p] ",
    "Debian": "%m [%p] %q%u@%d ",
    "RDS": "%t:%r:%u@%d:[%p]:",
    "Azure": "%t-%c-",
    "Cloud SQL": "%m [%p]: [%l-1] db=%d,user=%u ",
    "Supabase": "%h %m [%p] %q%u@%d ",
    "pgBadger": "%t [%p]: user=%u,db=%d,app=%a,client=%h ",
    "keys with an error's code": "ts=%m,pid=%p,db=%d,user=%u,app=%a,client=%h,statecode=%e: ",
    "seconds since 1970": "%n [%p] %e ",
}
SETTINGS = {
    "logging_collector": "on",
    "log_filename": "server.log",
    "log_connections": "on",
    "log_disconnections": "on",
    "log_lock_waits": "on",
    "deadlock_timeout": "100ms",
    "log_statement": "none",
    # Many: a session that ends, or is refused, has its slot a moment longer, and with none left the refusal is another.
    "superuser_reserved_connections": "10",
}
SLOTS = 16
SESSION_TIME = re.compile(rb"\d:\d\d:\d\d\.\d{3}[ \n].*=")


@dataclass(frozen=True)
class Logged:
    text: str
    holder: int


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Logged]]:
    """What one server wrote of the same incident with each prefix."""
    with own_temporary_directory(tmp_path_factory), started(bindirs()[-1], max_connections=SLOTS) as sandbox:
        with connect(sandbox.admin_conninfo) as admin:
            for name, value in SETTINGS.items():
                admin.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
            admin.execute(b"CREATE TABLE stock (id int)")
            admin.execute(b"GRANT ALL ON stock TO PUBLIC")
            log = Path(str(one(admin, "SHOW data_directory"))) / "log" / "server.log"
        sandbox.restart()
        found = {}
        for name, prefix in PREFIXES.items():
            with connect(sandbox.admin_conninfo) as admin:
                admin.execute(f"ALTER SYSTEM SET log_line_prefix = '{prefix}'".encode())
                admin.execute(b"SELECT pg_reload_conf()")
                eventually(lambda prefix=prefix: one(admin, "SHOW log_line_prefix") == prefix)  # type: ignore[misc]
                # Those of the stage before have their slots a moment longer than the log says.
                others = "backend_type = 'client backend' AND pid <> pg_backend_pid()"
                query = f"SELECT count(*) FROM pg_stat_activity WHERE {others}"
                eventually(lambda admin=admin, query=query: one(admin, query) == 0)  # type: ignore[misc]
            start = log.stat().st_size
            ends = sandbox.admin_conninfo, sandbox.direct_conninfo
            holder = stage(*ends, lambda start=start: log.read_bytes()[start:])  # type: ignore[misc]
            found[name] = Logged(log.read_bytes()[start:].decode(), holder)
        yield found


def stage(superuser: str, ordinary: str, read_log: Callable[[], bytes]) -> int:
    """Let a statement wait for a lock, and the server refuse two clients; return who holds the lock."""
    with ExitStack() as stack:
        clients = stack.enter_context(Clients(ordinary))
        holder = clients.locking("stock")
        clients.busy("SELECT count(*) FROM stock")
        with connect(superuser) as admin:
            eventually(lambda: one(admin, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 1)
        with suppress(psycopg.OperationalError):
            for _ in range(SLOTS):
                clients.idle()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(ordinary)
        eventually(lambda: b"holding the lock" in read_log())
    eventually(lambda: len(SESSION_TIME.findall(read_log())) >= 6)
    return holder


def read(tmp_path: Path, text: str, prefix: str = "") -> LogFacts:
    (tmp_path / "server.log").write_text(text)
    facts = read_evidence([str(tmp_path / "server.log")], prefix=prefix).log
    assert facts is not None
    return facts


def check(facts: LogFacts, logged: Logged) -> None:
    assert [(each.by, each.count) for each in facts.refusals] == [("superuser-slots", 2)]
    assert [each.holders for each in facts.lock_waits] == [(logged.holder,)]
    assert max(each.open_at_least or 0 for each in facts.moments) >= 5
    assert facts.first_at is not None
    assert facts.last_at is not None
    assert 0 <= facts.last_at - facts.first_at < 600
    assert facts.trouble_at is not None


@pytest.mark.parametrize("platform", PREFIXES)
@pytest.mark.parametrize("is_given", [False, True], ids=["inferred", "given"])
def test_the_prefix_of_each_platform_is_read(
    logs: dict[str, Logged], platform: str, is_given: bool, tmp_path: Path
) -> None:
    check(read(tmp_path, logs[platform].text, PREFIXES[platform] if is_given else ""), logs[platform])


def each_message(text: str) -> list[str]:
    """Return the messages of a log, with the lines that belong to each."""
    messages: list[str] = []
    for line in text.splitlines():
        if line[:1] == "\t" and messages:
            messages[-1] += "\n" + line
        else:
            messages.append(line)
    return messages


def as_json_lines(key: str) -> Callable[[str], str]:
    return lambda text: "".join(
        json.dumps({"timestamp": "2026-10-13T06:31:05Z", key: message, "severity": "INFO"}) + "\n"
        for message in each_message(text)
    )


def as_csv(*columns: str) -> Callable[[str], str]:
    def write(text: str) -> str:
        file = io.StringIO()
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(["2026-10-13 06:31:05.000", message] for message in each_message(text))
        return file.getvalue()

    return write


def as_azure_records(text: str) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for message in each_message(text):
        head, _, detail = message.partition("DETAIL:  ")
        level = next((each for each in ("FATAL", "ERROR", "DETAIL") if f"-{each}:" in message), "LOG")
        if detail and records:
            records[-1]["properties"]["detail"] = detail
            continue
        properties = {
            "timestamp": f"{head[:19]}.448 UTC",
            "processId": int(head.split(".")[1].partition("-")[0], 16),
            "errorLevel": level,
            # Another FATAL: a client that left while the server canceled its statement, "connection to client lost".
            "sqlerrcode": "53300" if "slots are reserved" in head else "00000" if level == "LOG" else "08006",
            "message": head,
        }
        records.append(
            {
                "properties": properties,
                "time": "2026-10-13T06:31:05.452Z",
                "category": "PostgreSQLLogs",
                "location": "x",
            }
        )
    return records


WRAPPINGS: dict[str, tuple[str, Callable[[str], str]]] = {
    "S3 and CloudWatch": (
        "RDS",
        lambda text: "".join(f"2026-10-13T06:31:05.000Z {line}\n" for line in text.splitlines()),
    ),
    "CloudWatch's events": (
        "RDS",
        lambda text: json.dumps(
            {"events": [{"timestamp": 1, "message": each} for each in each_message(text)]}, indent=2
        ),
    ),
    "CloudWatch Insights": ("RDS", as_csv("@timestamp", "@message")),
    "RDS's portion": ("RDS", lambda text: json.dumps({"LogFileData": text, "AdditionalDataPending": False})),
    "Cloud SQL": ("Cloud SQL", as_json_lines("textPayload")),
    "Cloud SQL as one document": (
        "Cloud SQL",
        lambda text: json.dumps([{"textPayload": each, "insertId": "s=1"} for each in each_message(text)], indent=2),
    ),
    "Docker": ("PostgreSQL", as_json_lines("log")),
    "Docker compose": ("PostgreSQL", lambda text: "".join(f"db-1  | {line}\n" for line in text.splitlines())),
    "kubectl": (
        "PostgreSQL",
        lambda text: "".join(f"2026-10-13T06:31:05.123456789Z {line}\n" for line in text.splitlines()),
    ),
    "Supabase": ("Supabase", as_csv("timestamp", "event_message")),
    "Azure's storage account": (
        "Azure",
        lambda text: "".join(json.dumps(record) + "\n" for record in as_azure_records(text)),
    ),
    "Azure's event hub": ("Azure", lambda text: json.dumps({"records": as_azure_records(text)}, indent=2)),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_log_is_read_as_each_platform_wraps_it(logs: dict[str, Logged], wrapping: str, tmp_path: Path) -> None:
    prefix, wrap = WRAPPINGS[wrapping]

    check(read(tmp_path, wrap(logs[prefix].text)), logs[prefix])


@pytest.mark.parametrize(
    "header",
    [
        ("TimeGenerated", "ErrorLevel", "ProcessId", "SqlErrorCode", "Message", "Detail"),
        ("TimeGenerated [UTC]", "errorLevel_s", "processId_d", "sqlerrcode_s", "Message", "detail_s"),
    ],
    ids=["PGSQLServerLogs", "AzureDiagnostics"],
)
def test_azures_tables_are_read_as_they_are_exported(
    logs: dict[str, Logged], header: tuple[str, ...], tmp_path: Path
) -> None:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(header)
    for record in as_azure_records(logs["Azure"].text):
        of = record["properties"]
        keys = ("timestamp", "errorLevel", "processId", "sqlerrcode", "message", "detail")
        writer.writerow([of.get(key, "") for key in keys])

    check(read(tmp_path, file.getvalue()), logs["Azure"])


LANGUAGES = [
    language
    for language in ("de", "es", "fr", "it", "ja", "ko", "ru", "sv", "uk", "zh_CN")
    if Path(f"/usr/share/locale/{language}/LC_MESSAGES/postgres-15.mo").exists()
]
QUICK = ("de", "ja")
"""The others are of the slow suite: each starts a server of its own."""


@pytest.mark.parametrize(
    "language", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in LANGUAGES]
)
def test_a_log_in_another_language_says_the_same_with_and_without_codes(
    language: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = SETTINGS | {"log_destination": "stderr, csvlog, jsonlog", "log_line_prefix": "%m [%p] "}
    with (
        own_temporary_directory(tmp_path_factory) as folder,
        speaking(language, folder, slots=SLOTS, **settings) as superuser,
    ):
        with connect(superuser) as admin:
            admin.execute(b"CREATE ROLE app LOGIN; CREATE TABLE stock (id int); GRANT ALL ON stock TO PUBLIC")
        log = folder / "data" / "log" / "server.log"
        holder = stage(superuser, superuser.replace("user=postgres", "user=app"), log.read_bytes)
        texts = [(log.with_suffix(ending)).read_text() for ending in (".log", ".csv", ".json")]

    assert "connection authorized" not in texts[0] or language == "zh_CN"
    for text in texts:
        check(read(tmp_path, text), Logged(text, holder))
