"""The state of a driver's connection, read from its memory: nothing is sent to the server."""

from typing import Any

_STATES = {0: "idle", 1: "active", 2: "idle in transaction", 3: "idle in transaction (aborted)", 4: ""}
"""libpq's transaction states, in the words of pg_stat_activity."""


def read_state(connection: Any) -> tuple[str, int | None]:
    """Read the transaction state and the backend's process id of a driver's ``connection``, from memory."""
    try:
        if hasattr(connection, "is_in_transaction"):  # asyncpg
            if connection.is_closed():
                return "closed", None
            state = "idle in transaction" if connection.is_in_transaction() else "idle"
            return state, connection.get_server_pid()
        raw = getattr(connection, "raw", connection)  # aiopg wraps psycopg2's
        if raw.closed:
            return "closed", None
        state = _STATES.get(int(raw.info.transaction_status), "")
        return state, raw.info.backend_pid
    except Exception:  # a connection that ends in this moment has no state
        return "", None
