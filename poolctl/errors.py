"""The errors poolctl raises on purpose.

    PoolctlError
    ├── BadInput        exit 2   an option, scenario file or connection string that cannot be used
    ├── CannotDo        exit 3   the job could not be done
    │   ├── CannotConnect        the server refused the connection, or is not there
    │   ├── NoPrivilege          connected, but the role may see too little
    │   ├── ServerFull           the run needs more connections than the server can give
    │   ├── MissingProgram       a binary or library that has to be installed first
    │   └── SandboxFailed        the throw-away server could not be started, or died
    ├── InternalError   exit 70  an error inside poolctl
    └── Interrupted     exit 130 stopped on request, before there was a result

Raised in the layer that knows, caught once in ``cli.py``. Every error says what happened and with which values;
``hint`` says what to do next. Neither holds a password: who raises one does not quote connection strings, and
``cli.py`` hides what a wrong option repeats.
"""


class PoolctlError(Exception):
    """Base of the tree. ``code`` is stable and appears in JSON; ``hint`` is "" where there is none."""

    code = "error"
    exit_code = 3

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BadInput(PoolctlError):
    """An option, scenario key or file that cannot be used. The message names it, its value and the rule."""

    code = "bad-input"
    exit_code = 2


class CannotDo(PoolctlError):
    """The request is valid, and could not be fulfilled."""

    code = "cannot-do"


class CannotConnect(CannotDo):
    code = "cannot-connect"


class NoPrivilege(CannotDo):
    code = "no-privilege"


class ServerFull(CannotDo):
    code = "server-full"


class MissingProgram(CannotDo):
    code = "missing-program"


class SandboxFailed(CannotDo):
    code = "sandbox-failed"


class InternalError(PoolctlError):
    """An exception that no layer expected. Only ``cli.py`` makes one of it."""

    code = "internal"
    exit_code = 70


class Interrupted(PoolctlError):
    """Stopped on request before there was a result; an interruption after that is a result marked as interrupted."""

    code = "interrupted"
    exit_code = 130
