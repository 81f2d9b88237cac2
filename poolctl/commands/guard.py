"""``poolctl guard``: run a command, and say which of its lines acquire connections and do not release them."""

import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from poolctl.commands.options import OUTPUT, Duration, GroupedCommand, make_option
from poolctl.commands.streams import print_message
from poolctl.errors import BadInput, CannotDo

if TYPE_CHECKING:
    import subprocess

    from poolctl.guard.session import GuardSession

EPILOG = """\b
Examples:
  poolctl guard -- pytest tests/
      each test that leaks fails, with the line
  poolctl guard --for 10m -- gunicorn app:app
      stop it after 10 minutes, then report
  poolctl guard --every 30s --threshold 5s -- python worker.py
  poolctl guard --fail-on warning --json -- python job.py

The command's output and exit code stay as they are; the report goes to standard error, and with --json to standard
output, while the command's own output goes to standard error. Signal USR1 makes it report at once.
"""

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""What a shell returns for a command that does not exist, and for one that it may not run."""

PATIENCE = 10.0
"""Seconds that a command has to end after --for is over."""


_when = make_option("When to stop and report")
_what = make_option("What to report")
_output = make_option(OUTPUT)


@click.command(
    cls=GroupedCommand,
    epilog=EPILOG,
    short_help="Run a Python program and name the lines that leak connections.",
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
)
@_when("--for", "for_", type=Duration(), metavar="TIME", help="Stop the command after this time (SIGTERM).")
@_when("--every", type=Duration(), metavar="TIME", help="Report also while it runs, each time this has passed.")
@_what(
    "--threshold",
    type=Duration(),
    default="60s",
    show_default=True,
    metavar="TIME",
    help="A connection held for longer is an apparent leak; 0 turns that off.",
)
@_output("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
@_output(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write the report to a file: .json, or text with any other name.",
)
@_output("--fail-on", type=click.Choice(["warning", "critical"]), help="Exit with 1 if the command exits with 0.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def guard(
    for_: float | None,
    every: float | None,
    threshold: float,
    as_json: bool,
    output: Path | None,
    fail_on: str | None,
    command: tuple[str, ...],
) -> int:
    """Run COMMAND and report each line of it that acquires a connection and does not release it.

    It sees psycopg, psycopg_pool, psycopg2, SQLAlchemy, asyncpg, Django and aiopg, in the command and in every Python
    process that it starts. The program is not changed.
    """
    import subprocess

    from poolctl.guard.session import GuardSession
    from poolctl.safe_text import hide_typed

    if sys.platform == "win32":
        raise CannotDo("the guard command needs Unix sockets", hint="use pytest --poolctl, or poolctl.guard.watch()")
    for name, value in (("--for", for_), ("--every", every)):
        if value is not None and value <= 0:
            raise BadInput(f"{name}: it must be more than 0", hint=f"for example {name} 10s")
    with GuardSession(threshold=threshold) as session:
        try:
            process = subprocess.Popen(
                command, env=session.environment(), stdout=sys.stderr.fileno() if as_json else None
            )
        except FileNotFoundError:
            print_message(f"guard: command not found: {hide_typed(command[0], command[:1])}")
            return _finish(session, NOT_FOUND, as_json=as_json, output=output, fail_on=fail_on)
        except (PermissionError, OSError) as error:
            print_message(f"guard: cannot run {hide_typed(command[0], command[:1])}: {error.strerror or error}")
            return _finish(session, NOT_EXECUTABLE, as_json=as_json, output=output, fail_on=fail_on)
        code = _wait(process, session, for_=for_, every=every)
        return _finish(session, code, as_json=as_json, output=output, fail_on=fail_on)


def _wait(
    process: "subprocess.Popen[bytes]", session: "GuardSession", *, for_: float | None, every: float | None
) -> int:
    """Wait for the command, report when asked, and return its exit code, 128 + n for signal n."""
    import subprocess

    from poolctl.guard.guard_text import report_lines

    # Not an Event: a signal that comes while the main thread clears one would wait for that thread's own lock for ever.
    is_wanted = False

    def forward(number: int, _: FrameType | None) -> None:
        if process.poll() is None:
            process.send_signal(number)

    def ask(_: int, __: FrameType | None) -> None:
        nonlocal is_wanted
        is_wanted = True

    # Ctrl-C in a terminal reaches the whole process group, the command too: it decides what to do, and we wait.
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, forward),
        signal.SIGHUP: signal.signal(signal.SIGHUP, forward),
        signal.SIGUSR1: signal.signal(signal.SIGUSR1, ask),
    }
    deadline = None if for_ is None else time.monotonic() + for_
    due = None if every is None else time.monotonic() + every
    killing: float | None = None
    try:
        while (code := process.poll()) is None:
            now = time.monotonic()
            if is_wanted or (due is not None and now >= due):
                is_wanted = False
                due = None if every is None else now + every
                _print_lines(report_lines(session.view()))
            if killing is None and deadline is not None and now >= deadline:
                process.terminate()
                killing = now + PATIENCE
            elif killing is not None and now >= killing:
                process.kill()
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        return code if code >= 0 else 128 - code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_lines(lines: Iterable[str]) -> None:
    from poolctl.guard.guard_text import wrap_line

    try:
        width = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        width = 0  # not a terminal
    for line in lines:
        for part in wrap_line(line, width) if width else [line]:
            click.echo(part, err=True)


def _finish(session: "GuardSession", code: int, *, as_json: bool, output: Path | None, fail_on: str | None) -> int:
    from poolctl.diagnose.finding import SEVERITIES, reaches
    from poolctl.guard.guard_text import report_lines

    session.settle()
    view = session.view(is_over=True)
    lines = list(report_lines(view))
    if not as_json:
        _print_lines(["", *lines])
    document = session.document(view, exit_code=code)
    if as_json:
        click.echo(document)
    if output is not None:
        try:
            output.write_text((document if output.suffix == ".json" else "\n".join(lines)) + "\n", encoding="utf-8")
        except OSError as error:
            raise BadInput(f"--output {output}: {error.strerror}", hint="name a file that can be written") from None
    severity = next((one for one in SEVERITIES if one == fail_on), None)
    if code == 0 and severity is not None and reaches(view.findings, severity):
        return 1
    return code
