"""No secret leaves: every spelling of a password, at every option that takes text, in messages and documents."""

import json
from pathlib import Path

import pytest

from poolctl.cli import main
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
