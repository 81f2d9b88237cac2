"""The command line: the one place that turns errors and Ctrl-C into exit codes.

0 done   1 a finding at or above --fail-on   2 wrong usage or scenario   3 could not do the job
70 an error inside poolctl   130 interrupted

Commands return their exit code, or raise an error of ``errors``. Leaves everything else to them.
"""

# isort: off
# First of all, so that a Ctrl-C during the other imports ends without a traceback.
from poolctl.commands import early_interrupt

# isort: on
import errno
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import click

from poolctl.commands.guard import guard
from poolctl.commands.inspect import inspect
from poolctl.commands.interrupts import interrupt, repeat_interrupt
from poolctl.commands.recommend import recommend
from poolctl.commands.simulate import simulate
from poolctl.commands.streams import OutputFailed, ReaderLeft, guard_streams, has_answered, has_lost_messages
from poolctl.errors import BadInput, CannotDo, InternalError, Interrupted, PoolctlError

FOUND, USAGE, FAILED = 1, 2, 3

EPILOG = """\b
Examples:
  poolctl inspect "host=db1 dbname=shop"     what is wrong, and what to do
  poolctl inspect -h db1 --watch             the same as a live view
  poolctl recommend -h db1 -d shop           how large each pool should be
  poolctl simulate --leak                    a leak, on a real PostgreSQL
  poolctl simulate --compare leak,correct    the leak beside its fix
  poolctl guard -- pytest tests/             which line leaks a connection
"""


class _Version(click.Option):
    """Reads the version only on request: importlib.metadata takes longer than all of --help."""

    def __init__(self) -> None:
        super().__init__(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=self._show,
            help="Show the version.",
        )

    @staticmethod
    def _show(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            from poolctl import __version__

            click.echo(f"poolctl {__version__}")
            context.exit()


@click.group(
    epilog=EPILOG,
    params=[_Version()],
    context_settings={"max_content_width": 100},
)
def poolctl() -> None:
    """Show, explain and prevent database connection-pool exhaustion."""


poolctl.add_command(guard)
poolctl.add_command(inspect)
poolctl.add_command(recommend)
poolctl.add_command(simulate)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``arguments`` and exit. None: those of this process, which is then poolctl's own."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    is_own = arguments is None
    if is_own:
        guard_streams()
        sys.unraisablehook = _repeat_lost_interrupt
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, interrupt)
    code = _run(words, is_own)
    if is_own and has_lost_messages() and code in (0, FOUND):
        code = FAILED
    sys.exit(code)


def _run(words: Sequence[str], is_own: bool) -> int:
    """Run the command and return its exit code; report the error that ended it."""
    error: PoolctlError
    try:
        if early_interrupt.was_interrupted:
            raise KeyboardInterrupt
        code = poolctl.main(list(words), prog_name="poolctl", standalone_mode=False)
        # A full disk may show only here.
        sys.stdout.flush()
        _ignore_interrupts(is_own)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as usage:
        click.echo(usage.format_message(), err=True)
        return USAGE
    except click.UsageError as usage:
        error = BadInput(usage.format_message(), hint=_help_hint(usage))
    except click.ClickException as usage:
        error = BadInput(usage.format_message())
    except PoolctlError as reported:
        error = reported
    except (KeyboardInterrupt, click.Abort) as ended:
        # Click aborts for an EOFError, too, such as that of a compiled module that was written in part.
        cause = ended.__cause__
        error = _explain(cause) if isinstance(cause, EOFError) else Interrupted("interrupted")
    except (ReaderLeft, BrokenPipeError):
        # The reader of our output closed it early, as `head` does. That is no failure.
        return 0
    except Exception as unexpected:  # noqa: BLE001 - 1 would mean a finding, and a traceback is no message
        error = _explain(unexpected)
    # From here on the report must be complete, and Python's exit quiet.
    _ignore_interrupts(is_own)
    return _report(words, error)


def _ignore_interrupts(is_own: bool) -> None:
    if is_own:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _repeat_lost_interrupt(unraisable: "sys.UnraisableHookArgs") -> None:
    """Interrupt again if Ctrl-C came within a destructor or callback, where Python prints the exception and goes on."""
    if unraisable.exc_type is KeyboardInterrupt:
        # A little later: raised here, it would be lost in the same way.
        repeat_interrupt()
    else:
        sys.__unraisablehook__(unraisable)


_LONGEST_HINT = 2_000

_OUT_OF = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS, errno.EIO, errno.EAGAIN}
"""Errors of the operating system that say what this machine lacks, wherever in poolctl they occur."""
_NO_ACCESS = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}
"""Errors of a path, which pathlib raises also where it only looks whether something is there."""


def _explain(unexpected: Exception) -> PoolctlError:
    """Turn an exception that no layer expected into an error with the line of poolctl where it occurred."""
    if isinstance(unexpected, MemoryError):
        return CannotDo("not enough memory", hint="a smaller scenario, file or --replications needs less")
    if isinstance(unexpected, OSError) and unexpected.errno in _OUT_OF:
        place = f"{unexpected.filename}: " if unexpected.filename else ""
        return CannotDo(f"{place}{unexpected.strerror}")
    if isinstance(unexpected, OSError) and unexpected.errno in _NO_ACCESS and unexpected.filename:
        return CannotDo(f"{unexpected.filename}: {unexpected.strerror}")
    import traceback

    from poolctl.safe_text import hide_secrets, neutralize

    frames = traceback.extract_tb(unexpected.__traceback__)
    own = [frame for frame in frames if "poolctl" in frame.filename] or frames
    place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"
    text = " ".join(f"{type(unexpected).__name__}: {unexpected}".split())
    if os.environ.get("POOLCTL_TRACEBACK"):
        lines = "".join(traceback.format_exception(unexpected)).rstrip().splitlines()
        for line in lines:
            indent = " " * (len(line) - len(line.lstrip()))
            click.echo(indent + neutralize(hide_secrets(line), None), err=True)
    return InternalError(
        f"an error inside poolctl, at {place}: {text}",
        hint="please report it, with the command and what POOLCTL_TRACEBACK=1 prints",
    )


def _report(words: Sequence[str], error: PoolctlError) -> int:
    """Write one clear error to stderr, and with --json its document to stdout. Return the exit code."""
    from poolctl.safe_text import hide_typed, neutralize

    # Errors repeat what was typed, and connection strings are typed: the document below is written from here, too.
    error.message, error.hint = hide_typed(error.message, words), hide_typed(error.hint, words)
    for line in error.message.splitlines() or [""]:
        click.echo(f"poolctl: {neutralize(line)}", err=True)
    if error.hint:
        # Longer than a message may be: it lists each name that there is.
        click.echo(f"  {neutralize(error.hint, _LONGEST_HINT)}", err=True)
    own_words = words[: words.index("--")] if "--" in words else words
    if "--json" in own_words:
        try:
            # The exit code is that of the error, also if the reader of the document has left.
            with suppress(ReaderLeft):
                _write_document(words, error)
        except OutputFailed as failed:
            click.echo(f"poolctl: {failed.message}", err=True)
            return failed.exit_code
    return error.exit_code


def _write_document(words: Sequence[str], error: PoolctlError) -> None:
    """Write the JSON document of a command that failed. Raises OutputFailed and ReaderLeft."""
    if has_answered():
        # The error came after the answer, such as that of a file of --output. There is one document, not two.
        return
    from poolctl.api.documents import dumps, failed_document

    command = next((word for word in words if word in poolctl.commands), "")
    status: Literal["failed", "interrupted"] = "interrupted" if isinstance(error, Interrupted) else "failed"
    click.echo(dumps(failed_document(command, error, status=status)))


def _help_hint(error: click.UsageError) -> str:
    if "unexpected extra argument" in error.format_message() and "=" in error.format_message():
        return 'a connection string is one argument: "host=... dbname=..."'
    help_screen = f"see {error.ctx.command_path} --help" if error.ctx else "see poolctl --help"
    if isinstance(error, click.NoSuchOption) and error.ctx and error.ctx.command is simulate:
        return f"any key of a scenario is set by --set KEY=VALUE, such as --set load.rate=50; {help_screen}"
    return help_screen


early_interrupt.stop_noting()
