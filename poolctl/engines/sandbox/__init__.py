"""Throw-away servers: a PostgreSQL for one run, alone or behind a real PgBouncer or Pgpool-II."""

from poolctl.engines.sandbox.directory import stop_kept
from poolctl.engines.sandbox.sandbox import Sandbox, without_libpq_environment

__all__ = ["Sandbox", "stop_kept", "without_libpq_environment"]
