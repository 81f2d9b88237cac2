"""The command of the user's that ``--exec`` runs for each event.

Decides how it is started: with arguments, without a shell, one at a time, and never for long. Nothing that a client of
the database controls is among the arguments.
"""

import os
import queue
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence

from poolctl.commands.streams import print_message
from poolctl.errors import BadInput

LONGEST = 60.0
"""Seconds that a run may take."""
MOST_WAITING = 100
SECRETS = ("PGPASSWORD", "PGPASSFILE", "PGSERVICEFILE")


def split_command(text: str) -> tuple[str, ...]:
    """Split a command line into words as a shell does, without expanding anything. Raises BadInput."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise BadInput(f"--exec: {error}") from None
    if not words:
        raise BadInput("--exec: the command is empty", hint="--exec '/usr/local/bin/page --team db'")
    return words


class Hook:
    """Runs ``command`` with more arguments, in a thread of its own: a slow command does not delay a sample."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._waiting: queue.Queue[tuple[Sequence[str], str] | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __call__(self, arguments: Sequence[str], text: str) -> None:
        """Run the command with ``arguments`` added and ``text`` as its standard input."""
        try:
            self._waiting.put_nowait((arguments, text))
        except queue.Full:
            print_message(f"--exec: {MOST_WAITING} events wait for {self._command[0]}; this one is left out")

    def close(self) -> None:
        """Wait for the runs under way, ``LONGEST`` seconds at most."""
        self._waiting.put(None)
        self._thread.join(LONGEST)

    def _run(self) -> None:
        while (event := self._waiting.get()) is not None:
            arguments, text = event
            try:
                # Its output goes to standard error: on standard output each line is an event.
                done = subprocess.run(
                    [*self._command, *arguments],
                    input=text,
                    text=True,
                    stdout=sys.stderr.fileno(),
                    timeout=LONGEST,
                    check=False,
                    env={name: value for name, value in os.environ.items() if name not in SECRETS},
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                reason = error.strerror if isinstance(error, OSError) else f"it took longer than {LONGEST:g} s"
                print_message(f"--exec: cannot run {self._command[0]}: {reason}")
            else:
                if done.returncode:
                    print_message(f"--exec: {self._command[0]} ended with code {done.returncode}")
