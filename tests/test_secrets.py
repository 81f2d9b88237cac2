"""No secret leaves: every spelling of a password, at every option that takes text, in messages and documents."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from sandboxes import connect

from poolctl.cli import main
from poolctl.engines.sandbox.sandbox import Sandbox
from poolctl.safe_text import hide_secrets

SECRET = "S3CRET"

URIS = [
    *("postgresql://u:S3CRET%x@127.0.0.1:1/db", "postgresql://u:S3@CRET@127.0.0.1:1/db", "postgresql://:S3CRET@h"),
    *("postgresql+psycopg2://u:S3CRET@h/db", "postgres:/u:S3CRET@h/db", "postgresql:u:S3CRET@h/db", "u:S3CRET@h/m"),
    *(f"postgresql://u:a{character}S3CRET@127.0.0.1:1/db" for character in ")#?'\"\\&é:=,[{ /\n"),
    *("postgresql://h/db?password=S3CRET", "postgresql://h/db?sslpassword=S3CRET&x=1", "https://u:S3CRET@h/metrics"),
    *("jdbc:postgresql://h/db?user=u&password=S3CRET", "mysql://u:S3CRET@h/db", "postgresql://u:S3CRET@[::1/db"),
]
CONNINFOS = [
    *(
        "host=h password=my S3CRET",
        "host=h password=S3CRET",
        r"host=h password='a\'S3CRET'",
        r"host=h password=a\ S3CRET",
    ),
    *(
        "host=h password='my S3CRET'",
        "password = S3CRET host=h",
        "password = 'x S3CRET' host=h",
        "PASSWORD=S3CRET host=h",
    ),
    *("host=h sslpassword=S3CRET", "host=h sslpassword='a S3CRET'", "host=h password='unclosed S3CRET"),
    *(
        "passwrod=x password=S3CRET",
        "host=h password=***S3CRET",
        "host=h password=*** S3CRET",
        "host=h\npassword=S3CRET",
    ),
]
ODD = [
    *("user:*<,,._S3CRET @127.0.0.1:1/db", 'user::-.S3CRET>{"]}^@127.0.0.1:1/db', "redis://:* S3CRET }}1@h/db"),
    *('jdbc:postgresql://h/db?user=u&password=}=@S3CRET&\\[-"{', "user:ab/S3CRET x@h", "x=user: #S3CRET)^@h/db"),
]
"""Passwords whose end shows only in the argument itself: blanks, quotes and @ in a URL that libpq does not read."""
SPELLINGS = [*URIS, *CONNINFOS]

PLACES = [
    *(("inspect", "x", "{}"), ("inspect", "db", "-d", "{}"), ("inspect", "-h", "{}"), ("inspect", "-U", "{}")),
    *(
        ("inspect", "-p", "{}"),
        ("inspect", "--replay", "{}"),
        ("inspect", "--record", "{}"),
        ("inspect", "--for", "{}"),
    ),
    *(("inspect", "--collect", "{}"), ("inspect", "--prometheus", "{}"), ("inspect", "--from", "{}")),
    *(("inspect", "--evidence", "{}"), ("inspect", "--output", "x.{}"), ("simulate", "--on", "{}")),
    *(("inspect", "--output", "{}"), ("inspect", "--explain", "{}"), ("inspect", "--fail-on", "{}")),
    *(("inspect", "--conninfo", "{}"), ("inspect", "--password={}"), ("inspect", "--pool-stats-map", "{}", "x")),
    *(("simulate", "{}"), ("simulate", "a.toml", "{}"), ("simulate", "--engine", "model", "--set", "{}")),
    *(("simulate", "--engine", "model", "--set", f"{key}={{}}") for key in ("pool.kind", "load.hold", "load.query")),
    *(("simulate", "--engine", "model", option, "{}") for option in ("--compare", "--leak-shape", "--output")),
    *(("simulate", option, "{}") for option in ("--sweep", "--stop", "--engine", "--for", "--seed", "--port")),
    *(("recommend", "--recording", "{}"), ("recommend", "--fleet", "{}"), ("recommend", "--sweep-file", "{}")),
    *(("recommend", "--arrival-rate", "9", "--hold-time", "8ms", "--for-stack", "{}"), ("recommend", "--surge", "{}")),
    *(("recommend", "--sweep", "--mix", "{}"), ("recommend", "--sweep", "--script", "{}"), ("recommend", "-h", "{}")),
    *(("{}",), ("inspekt", "{}"), ("guard", "--output", "{}", "--", "true"), ("guard", "--", "{}")),
]


@pytest.mark.parametrize("place", PLACES, ids=" ".join)
def test_a_secret_at_the_wrong_place_is_not_repeated(
    place: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for spelling in [*SPELLINGS, *ODD]:
        words = [word.replace("{}", spelling) for word in place]
        with pytest.raises(SystemExit) as ended:
            main([words[0], "--json", *words[1:]] if len(words) > 1 else [*words, "--json"])
        printed = capsys.readouterr()

        assert "CRET" not in printed.out + printed.err, spelling
        assert ended.value.code in (2, 3, 126, 127), (spelling, printed.err)
        if place[0] != "guard":
            assert json.loads(printed.out)["status"] == "failed", spelling
    assert [file.name for file in tmp_path.iterdir()] == [], "no file has got a connection string as its name"


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("message", ["{}", "--target {}: no", "cannot open '{}': {} ({})", 'x = "{}": must be y'])
def test_a_secret_is_hidden_within_any_message(spelling: str, message: str) -> None:
    hidden = hide_secrets(message.replace("{}", spelling))

    assert "CRET" not in hidden
    assert "***" in hidden
    assert hide_secrets(hidden) == hidden


@pytest.mark.parametrize(
    "text",
    [
        'FATAL: password authentication failed for user "shop"',
        "connection to server at 127.0.0.1, port 5432 failed: no password supplied",
        "poolctl inspect 'host=127.0.0.1 port=5432 user=app dbname=app' --pool-stats /tmp/pools.prom",
        "postgresql://app@127.0.0.1:5432/app",
        "host=h passfile=/home/me/.pgpass dbname=x",
        "see http://127.0.0.1:8080/metrics",
    ],
)
def test_words_without_a_secret_stay(text: str) -> None:
    assert hide_secrets(text) == text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("inspect", "-h", "postgresql://u:x@h/db"), "poolctl: -h takes no connection string"),
        (("inspect", "-U", "user=x"), "poolctl: -U takes no connection string"),
        (("simulate", "host=h dbname=x"), "poolctl: SCENARIO takes no connection string"),
        (("recommend", "--recording", "u:x@h"), "poolctl: --recording takes no connection string"),
        (("guard", "--output", "postgresql://h/db", "--", "true"), "poolctl: --output takes no connection string"),
    ],
)
def test_an_option_that_takes_no_connection_string_refuses_one(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)

    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[0] == message


def test_an_application_may_be_named_as_it_likes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["recommend", "--arrival-rate", "9", "--hold-time", "8ms", "--instances", "1", "--application", "web:a@b"])

    assert ended.value.code == 0, capsys.readouterr().err


PASSWORD = "a'S3CRET \\x"
FORMS = [
    "host=127.0.0.1 port={port} user=guest dbname={name} password=a\\'S3CRET\\ \\\\x",
    "postgresql://127.0.0.1:{port}/{name}?user=guest&password=a%27S3CRET%20%5Cx",
]


@pytest.fixture(scope="module")
def guarded_by_password() -> Iterator[dict[str, str]]:
    with Sandbox.start(max_connections=60) as sandbox, connect(sandbox.admin_conninfo) as admin:
        admin.execute(sql.SQL("CREATE ROLE guest LOGIN PASSWORD {}").format(PASSWORD))
        row = admin.execute("SHOW hba_file").fetchone()
        assert row is not None
        rules = Path(row[0])
        rules.write_text("host all guest 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
        admin.execute("SELECT pg_reload_conf()")
        place = conninfo_to_dict(sandbox.conninfo)
        yield {"port": str(place["port"]), "name": str(place["dbname"])}


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "words",
    [
        *(("simulate", "--for", "1s", "--set", "pool.max_open=3", "--set", "load.workers=4", "--target"),),
        *(("inspect", "--for", "1s", "--record", "kept.jsonl"), ("recommend", "--for", "1s")),
    ],
    ids=lambda words: words[0],
)
def test_a_password_that_the_server_asks_for_is_in_no_report_file_or_command_line(
    words: tuple[str, ...], form: str, guarded_by_password: dict[str, str], tmp_path: Path
) -> None:
    outputs = [word for kind in ("html", "md", "json") for word in ("--output", f"report.{kind}")]
    seen: set[str] = set()
    # The password is typed here on poolctl's own command line; those of the processes that it starts are looked at.
    command = [sys.executable, "-m", "poolctl", *words, form.format_map(guarded_by_password), *outputs]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as own:
        family = psutil.Process(own.pid)
        while own.poll() is None:
            for child in family.children(recursive=True):
                with suppress(psutil.Error):
                    seen.add(" ".join(child.cmdline()))
            # A child has its parent's command line until it runs a program of its own.
            seen.discard(" ".join(command))
            time.sleep(0.05)
        assert own.stdout is not None
        printed = own.stdout.read()

    files = sorted(tmp_path.iterdir())
    assert own.returncode == 0, printed
    assert len(files) >= 3
    assert [text for text in (printed, *seen, *(file.read_text() for file in files)) if "CRET" in text] == []
