"""The scenario's events on the throw-away server: restart, failover and pause, each at its time.

Decides when an event begins and what happens to one that is under way at the end. Slow statements and deploys are
left to the instances, which do them themselves.
"""

import threading
from collections.abc import Callable, Sequence

from poolctl.engines.sandbox import Sandbox
from poolctl.errors import PoolctlError
from poolctl.scenario.scenario import Event

LONGEST_EVENT = 30.0
"""Seconds that the end of a run waits for an event that is under way."""


class ServerEvents(threading.Thread):
    """Executes ``events`` one after the other. ``sandbox`` None: a named server, which has no events.

    ``is_busy``: the server is down or paused on purpose. ``failure``: why an event failed, None: none has.
    """

    def __init__(self, events: Sequence[Event], sandbox: Sandbox | None, clock: Callable[[], float]) -> None:
        super().__init__(daemon=True)
        self._events = [event for event in events if event.do in ("restart", "failover", "pause")]
        self._sandbox = sandbox
        self._clock = clock
        self._cancel = threading.Event()
        self.is_busy = False
        self.failure: str | None = None

    def run(self) -> None:
        """Wait for each event and execute it, until ``stop`` is called or one fails. Runs in the new thread."""
        for event in self._events:
            if self._cancel.wait(max(0.0, event.at - self._clock())) or self._sandbox is None:
                return
            self.is_busy = True
            try:
                self._execute(event, self._sandbox)
            except PoolctlError as error:
                self.failure = f"the event {event.do} at {event.at:g} s failed: {error.message}"
                # is_busy stays True: a server that did not come back must not count as one that died by itself.
                return
            self.is_busy = False

    def stop(self) -> None:
        """Begin no more events, and wait for the one under way: a server that stays paused could not be stopped."""
        self._cancel.set()
        self.join(timeout=LONGEST_EVENT)

    def _execute(self, event: Event, sandbox: Sandbox) -> None:
        if event.do == "restart":
            sandbox.restart()
        elif event.do == "failover":
            sandbox.fail_over()
        else:
            sandbox.pause()
            try:
                self._cancel.wait(event.duration)
            finally:
                sandbox.resume()
