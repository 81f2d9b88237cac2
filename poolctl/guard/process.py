"""The guard's part of a process that the guard command watches: it sends a report to the command, now and then.

Decides when: every half second in which something changed, and when the process ends. Each report is one connection
to a Unix socket: nothing is kept open that a daemon might close, or a fork might share. The command keeps all reports
in memory, so a killed process leaves nothing behind.
"""

import atexit
import os
import signal
import socket
import sys
from _thread import allocate_lock, start_new_thread
from typing import Any

INTERVAL = 0.5
"""Seconds between two reports of a process in which something changes."""

SEND_WITHIN = 2.0
"""Seconds for one report. A guard command that does not read must not hold the program up."""

_ENDING = (signal.SIGTERM, signal.SIGINT)
"""Signals that end a process which does not handle them, and that servers raise against themselves."""

ADDRESS = "POOLCTL_GUARD_ADDRESS"
TOKEN = "POOLCTL_GUARD_TOKEN"
THRESHOLD = "POOLCTL_GUARD_THRESHOLD"

# Taken before gevent or eventlet replace them: a report is sent from a thread of the system.
_Socket = socket.socket


def send(kind: str, body: str = "") -> bool:
    """Send one message to the guard command. False if it could not be sent: the command has ended, or is stuck."""
    address = os.environ.get(ADDRESS, "")
    if not address:
        return False
    try:
        with _Socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(SEND_WITHIN)
            # Linux: a name without a file, which begins with a zero byte that an environment cannot hold.
            link.connect("\0" + address[1:] if address.startswith("@") else address)
            link.sendall(f"{os.environ.get(TOKEN, '')}\n{kind}\n{body}".encode("utf-8", "backslashreplace"))
        return True
    except OSError:
        return False


class Reporter:
    """Sends the reports of this process. It has a thread only once a library of connections is in use."""

    def __init__(self, recorder: Any) -> None:
        self._recorder = recorder
        self._stop = allocate_lock()
        self._stopped = allocate_lock()
        self._is_running = False
        self._last = ""
        self._pid = os.getpid()

    def start(self) -> None:
        """Report now and then from here on. Twice is once."""
        if self._is_running:
            return
        self._is_running = True
        self._stop = allocate_lock()
        self._stopped = allocate_lock()
        self._stop.acquire()
        self._stopped.acquire()
        try:
            # Not a threading.Thread: the program's own count of threads stays as it is.
            start_new_thread(self._run, (self._stop, self._stopped))
        except RuntimeError:  # the interpreter is ending
            self._is_running = False

    def report(self, *, ended: bool = False) -> None:
        """Send a report now, unless it says what the last one said."""
        try:
            # Imported here: at the end of an interpreter, and in programs without a database, it is never needed.
            import json

            from poolctl.guard.guard_report import take_report
            from poolctl.serialize import to_dict

            view = to_dict(take_report(self._recorder, ended=ended))
            taken_at = view.pop("taken_at")
            text = json.dumps(view)
            if text != self._last or ended:
                self._last = text
                send("report", json.dumps({**view, "taken_at": taken_at}))
            else:
                send("alive", f'{{"pid": {os.getpid()}}}')
        except Exception as error:  # the program must not suffer
            self._recorder.complain("report", error)

    def _run(self, stop: Any, stopped: Any) -> None:
        try:
            while not stop.acquire(True, INTERVAL):
                self.report()
        finally:
            stopped.release()

    def before_fork(self) -> None:
        """End the thread: a process that forks with threads gets a warning from Python 3.12 on, and locks may stick."""
        self._stop_thread()

    def _stop_thread(self) -> None:
        if self._is_running:
            self._stop.release()
            self._stopped.acquire(True, SEND_WITHIN)

    def after_fork_in_parent(self) -> None:
        """Start the thread again."""
        if self._is_running:
            self._is_running = False
            self.start()

    def after_fork_in_child(self) -> None:
        """Begin as a new process."""
        self._pid = os.getpid()
        self._last = ""
        self._recorder.fork()
        if self._is_running:
            self._is_running = False
            self.start()

    def end(self) -> None:
        """Send the last report of this process."""
        if self._pid == os.getpid() and (self._is_running or self._recorder.hooked):
            # First its thread, whose report would otherwise come after this one and take its place.
            self._stop_thread()
            self._is_running = False
            self.report(ended=True)


def begin() -> None:
    """Hook this process and report to the guard command. Called by the guard's own sitecustomize."""
    from poolctl.guard.endings import watch_errors
    from poolctl.guard.hooks import install
    from poolctl.guard.recorder import RECORDER

    RECORDER.set_threshold(float(os.environ.get(THRESHOLD, "60")))
    reporter = Reporter(RECORDER)

    def start() -> None:
        watch_errors(RECORDER)
        reporter.start()

    RECORDER.on_first_use = start
    install()
    os.register_at_fork(
        before=reporter.before_fork,
        after_in_parent=reporter.after_fork_in_parent,
        after_in_child=reporter.after_fork_in_child,
    )
    atexit.register(reporter.end)
    leave = os._exit

    def _exit(status: int = 0) -> Any:
        # Forked workers (multiprocessing, Celery) end here and run nothing that atexit knows.
        reporter.end()
        leave(status)

    os._exit = _exit
    raise_signal = signal.raise_signal

    def _raise_signal(number: int) -> None:
        # uvicorn ends so, in good order: it has waited for its requests, and takes the signal that it was sent.
        if signal.getsignal(number) == signal.SIG_DFL and number in _ENDING:
            reporter.end()
        raise_signal(number)

    signal.raise_signal = _raise_signal
    send("hello", f'{{"pid": {os.getpid()}, "python": "{sys.version_info[0]}.{sys.version_info[1]}"}}')
