"""The pool: who gets which connection, who waits, who opens, what is closed and counted.

No clock, no I/O, no threads. Virtual time and live runs drive the same rules.
"""

from poolctl.pool.pool import (
    Close,
    Connection,
    Fail,
    HandOver,
    Open,
    Pool,
    Reject,
    Stale,
    Use,
    Wait,
)
from poolctl.pool.settings import KINDS, Kind, PoolRules, PoolSettings
from poolctl.pool.stats import Closed, PoolStats

__all__ = [
    "KINDS",
    "Close",
    "Closed",
    "Connection",
    "Fail",
    "HandOver",
    "Kind",
    "Open",
    "Pool",
    "PoolRules",
    "PoolSettings",
    "PoolStats",
    "Reject",
    "Stale",
    "Use",
    "Wait",
]
