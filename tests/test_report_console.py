"""Which stream gets color, motion, width and which characters; and what foreign text is turned into."""

import io
import os
import subprocess
import sys

import pytest

from poolctl.report.screen import ColorChoice, Screen, open_screen
from poolctl.safe_text import neutralize


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def is_colored(stream: io.StringIO, color: ColorChoice = "auto", **environ: str) -> bool:
    from rich.text import Text

    open_screen(stream, color, environ={"TERM": "xterm-256color"} | environ).print(Text("word", style="red"))
    assert stream.getvalue().replace("\x1b[31m", "").replace("\x1b[0m", "") == "word\n"
    return "\x1b[31m" in stream.getvalue()


def test_auto_colors_a_terminal_and_nothing_else() -> None:
    assert is_colored(Terminal())
    assert not is_colored(io.StringIO())


def test_no_color_counts_when_it_is_not_empty() -> None:
    assert not is_colored(Terminal(), NO_COLOR="1")
    assert is_colored(Terminal(), NO_COLOR="")


def test_a_dumb_terminal_gets_no_color() -> None:
    assert not is_colored(Terminal(), TERM="dumb")


def test_the_option_wins_over_the_environment() -> None:
    assert is_colored(io.StringIO(), "always", NO_COLOR="1")
    assert is_colored(Terminal(), "always", TERM="dumb")
    assert not is_colored(Terminal(), "never", FORCE_COLOR="1")


def test_force_color_colors_a_pipe_and_no_color_wins_over_it() -> None:
    assert is_colored(io.StringIO(), FORCE_COLOR="1")
    assert not is_colored(io.StringIO(), FORCE_COLOR="1", NO_COLOR="1")


def test_force_color_neither_animates_a_pipe_nor_bounds_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.setenv(name, "1")

    screen = open_screen(io.StringIO())

    assert (screen.moving, screen.natural, screen.width) == (False, True, None)


def test_a_terminal_may_move_unless_it_is_dumb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert open_screen(Terminal()).moving

    monkeypatch.setenv("TERM", "dumb")
    assert not open_screen(Terminal()).moving


def test_text_into_a_pipe_is_never_wrapped_or_cut() -> None:
    stream = io.StringIO()
    words = "word " * 400

    open_screen(stream).paragraph("lead  ", words)

    assert stream.getvalue() == f"lead  {words.rstrip()}\n"


def test_a_paragraph_hangs_below_its_lead_and_no_number_leaves_its_unit() -> None:
    stream = io.StringIO()

    open_screen(stream, width=24).paragraph("Why   ", "the oldest has waited 0.98 s and more")

    assert stream.getvalue().splitlines() == ["Why   the oldest has", "      waited 0.98 s and", "      more"]


def test_a_word_longer_than_the_line_is_folded_not_lost() -> None:
    stream = io.StringIO()

    open_screen(stream, width=20).paragraph("", "x" * 50)

    assert stream.getvalue().splitlines() == ["x" * 20, "x" * 20, "x" * 10]


def test_wide_characters_count_double() -> None:
    stream = io.StringIO()

    open_screen(stream, width=20).paragraph("", "日本語" * 6)

    assert all(len(line) <= 10 for line in stream.getvalue().splitlines())


def test_a_stream_that_cannot_write_a_character_gets_a_stand_in_of_the_same_width() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", newline="\n")

    screen = open_screen(stream)
    screen.print("830 µs · 2 \u00d7 3 … “why” 日")
    stream.flush()

    assert screen.ascii_only
    assert raw.getvalue() == b'830 us - 2 x 3 . "why" ?\n'


def test_latin_1_keeps_what_it_can_write() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1", newline="\n")

    open_screen(stream).print("830 µs ⣿")
    stream.flush()

    assert raw.getvalue().decode("latin-1") == "830 µs ?\n"


def test_markup_and_emoji_codes_are_text() -> None:
    stream = io.StringIO()

    open_screen(stream, "always").print("[red]x[/red] :skull: [link=a]b")

    assert stream.getvalue() == "[red]x[/red] :skull: [link=a]b\n"


def test_what_was_forgotten_to_be_neutralized_still_commands_nothing() -> None:
    stream = io.StringIO()

    open_screen(stream, "always").print("a\x1b[2Jb\x9b1m\x00")

    assert stream.getvalue() == "a?[2Jb?1m?\n"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain text, [red] and :skull:", "plain text, [red] and :skull:"),
        ("FATAL:  too many\n\tclients\r\n", "FATAL: too many clients"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("title \x1b]0;x\x07", "title \\x1b]0;x\\x07"),
        ("c1 \x9b1m \x85 next", "c1 \\x9b1m next"),
        ("\u202eabc\u202c \u2066x\u2069", "\\u202eabc\\u202c \\u2066x\\u2069"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("tag \U000e0041", "tag \\U000e0041"),
        ("half \ud800", "half \\ud800"),
        ("private \ue000", "private \\ue000"),
        ("日本語 é ñ", "日本語 é ñ"),
        ("line\u2028separator", "line separator"),
        ("", ""),
    ],
)
def test_foreign_text_is_shown_on_one_line_with_its_commands_written_out(raw: str, shown: str) -> None:
    assert neutralize(raw) == shown


def test_a_megabyte_is_shortened_and_says_how_long_it_was() -> None:
    assert neutralize("x" * 1_000_000, 20) == "x" * 20 + "... (1,000,000 characters)"
    assert neutralize("x" * 20, 20) == "x" * 20
    assert neutralize("\x1b" * 1000, 20) == ("\\x1b" * 20)[:20] + "... (1,000 characters)"
    assert neutralize("x" * 5000, None) == "x" * 5000


PROGRAM = (
    "import sys; from poolctl.report.screen import open_screen; from rich.text import Text;"
    "s = open_screen(); s.print(Text('x' * 150, style='red')); print(s.moving, s.natural, s.ascii_only)"
)


def in_subprocess(**environ: str) -> list[str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, check=True, env=clean | environ, encoding="utf-8"
    )
    return done.stdout.splitlines()


def test_a_real_pipe_gets_plain_text_of_its_natural_width() -> None:
    assert in_subprocess(COLUMNS="40", PYTHONIOENCODING="utf-8") == ["x" * 150, "False True False"]


def test_a_real_pipe_in_ascii_is_known_as_such() -> None:
    assert in_subprocess(PYTHONIOENCODING="ascii")[-1] == "False True True"


def test_a_real_pipe_with_force_color_is_colored_but_does_not_move() -> None:
    assert in_subprocess(FORCE_COLOR="1", PYTHONIOENCODING="utf-8") == [
        f"\x1b[31m{'x' * 150}\x1b[0m",
        "False True False",
    ]


def test_a_screen_tells_when_it_is_narrow() -> None:
    def screen(width: int | None) -> Screen:
        return open_screen(io.StringIO(), width=width)

    assert screen(59).narrow
    assert not screen(60).narrow
    assert not screen(None).narrow
    assert screen(None).chart_width == 100
    assert screen(200).chart_width == 120
