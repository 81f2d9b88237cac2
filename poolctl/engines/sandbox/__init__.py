"""Throw-away servers: a PostgreSQL for one run, alone or behind a real PgBouncer or Pgpool-II."""

from poolctl.engines.sandbox.sandbox import Sandbox, stop_kept, without_libpq_environment

__all__ = ["Sandbox", "stop_kept", "without_libpq_environment"]
