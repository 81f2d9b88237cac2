"""The figures of the pools of a running load, in a file of Prometheus text, as a real application exposes them.

``poolctl inspect --pool-stats`` reads the file from a second terminal. The names are those of OpenTelemetry for pools
of database connections (semantic conventions, db.client.connection.*).
"""

import time
from collections.abc import Sequence
from pathlib import Path

from poolctl.engines.live.instance_fleet import Instance

NAME = "pools.prom"
EVERY = 0.25
"""Seconds between two versions of the file."""


class ExposedPools:
    """The file in ``folder``. Each version replaces the file as a whole, so that a reader never sees half of one."""

    def __init__(self, folder: Path, *, max_open: int, application: str) -> None:
        self._path = folder / NAME
        self._max_open = max_open
        self._application = application
        self._written_at = float("-inf")

    def show(self, instances: Sequence[Instance]) -> None:
        """Write what ``instances`` reported last, at most every ``EVERY`` seconds.

        A version that cannot be written, for example on a full disk, is left out.
        """
        now = time.monotonic()
        if now - self._written_at < EVERY:
            return
        self._written_at = now
        fresh = self._path.with_suffix(".new")
        try:
            fresh.write_text("".join(self._lines(instances)), encoding="utf-8")
            fresh.chmod(0o644)
            fresh.replace(self._path)
        except OSError:
            return

    def _lines(self, instances: Sequence[Instance]) -> list[str]:
        lines = []
        for instance in instances:
            if instance.row is None or instance.loss:
                continue
            _, _, in_use, idle, _, waiting, acquired, _ = (int(value) for value in instance.row)
            label = f'pool_name="instance {instance.number}",application_name="{self._application}"'
            lines += [
                f'db_client_connection_count{{{label},state="used"}} {in_use}\n',
                f'db_client_connection_count{{{label},state="idle"}} {idle}\n',
                f"db_client_connection_pending_requests{{{label}}} {waiting}\n",
                f"db_client_connection_wait_time_seconds_count{{{label}}} {acquired}\n",
            ]
            if self._max_open:
                lines.append(f"db_client_connection_max{{{label}}} {self._max_open}\n")
        return lines
