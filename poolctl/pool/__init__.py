"""The pool: who gets which connection, who waits, who opens, what is closed and counted.

No clock, no I/O, no threads. Virtual time and live runs drive the same rules.
"""

from poolctl.pool.answers import (
    Action,
    Alarm,
    Answer,
    Blocked,
    Close,
    Connection,
    Fail,
    HandOver,
    Open,
    Reject,
    Request,
    Retry,
    Stale,
    Use,
    Wait,
)
from poolctl.pool.libraries import LIBRARIES, NOT_MODELED
from poolctl.pool.library import Library, Problem
from poolctl.pool.pool import Pool
from poolctl.pool.settings import PoolRules, PoolSettings
from poolctl.pool.stats import Closed, PoolStats

__all__ = [
    "LIBRARIES",
    "NOT_MODELED",
    "Action",
    "Alarm",
    "Answer",
    "Blocked",
    "Close",
    "Closed",
    "Connection",
    "Fail",
    "HandOver",
    "Library",
    "Open",
    "Pool",
    "PoolRules",
    "PoolSettings",
    "PoolStats",
    "Problem",
    "Reject",
    "Request",
    "Retry",
    "Stale",
    "Use",
    "Wait",
]
