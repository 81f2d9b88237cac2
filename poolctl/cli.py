"""The command line: the one place that turns errors and Ctrl-C into exit codes.

0 done   1 a finding at or above --fail-on   2 wrong usage or scenario   3 could not do the job   130 interrupted

Commands return their exit code, or raise an error of ``errors``. Leaves everything else to them.
"""

import os
import sys
from collections.abc import Sequence
from typing import Literal

import click

from poolctl.commands.guard import guard
from poolctl.commands.inspect import inspect
from poolctl.commands.recommend import recommend
from poolctl.commands.simulate import simulate
from poolctl.errors import BadInput, Interrupted, PoolctlError

USAGE = 2

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
    """Run ``arguments`` (the process's own by default) and exit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = poolctl.main(words, prog_name="poolctl", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(USAGE)
    except click.UsageError as error:
        _report(words, BadInput(error.format_message(), hint=_help_hint(error)))
        sys.exit(USAGE)
    except click.ClickException as error:
        _report(words, BadInput(error.format_message()))
        sys.exit(USAGE)
    except PoolctlError as error:
        _report(words, error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        interrupted = Interrupted("interrupted")
        _report(words, interrupted)
        sys.exit(interrupted.exit_code)
    except BrokenPipeError:
        # The reader of our output closed it early, as `head` does. That is no failure, but Python would print another
        # error when it closes stdout at exit, so stdout becomes the null device.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _report(words: Sequence[str], error: PoolctlError) -> None:
    """Write one clear error to stderr, a line for each thing that failed, and with --json its document to stdout."""
    from poolctl.safe_text import hide_secrets, neutralize

    # Errors repeat what was typed, and connection strings are typed: the document below is written from here, too.
    error.message, error.hint = hide_secrets(error.message), hide_secrets(error.hint)
    for line in error.message.splitlines() or [""]:
        click.echo(f"poolctl: {neutralize(line)}", err=True)
    if error.hint:
        click.echo(f"  {neutralize(error.hint)}", err=True)
    if "--json" in words:
        from poolctl.api.documents import dumps, failed_document

        command = next((word for word in words if word in poolctl.commands), "")
        status: Literal["failed", "interrupted"] = "interrupted" if isinstance(error, Interrupted) else "failed"
        click.echo(dumps(failed_document(command, error, status=status)))


def _help_hint(error: click.UsageError) -> str:
    if "unexpected extra argument" in error.format_message() and "=" in error.format_message():
        return 'a connection string is one argument: "host=... dbname=..."'
    return f"see {error.ctx.command_path} --help" if error.ctx else "see poolctl --help"
