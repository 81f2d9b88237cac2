"""Which pools run as the real library, and the errors of a pool, as its library names them."""

from poolctl.pool import LIBRARIES, PoolSettings
from poolctl.scenario.run import ErrorKind

REAL_LIBRARIES = ("psycopg_pool", "psycopg2", "sqlalchemy", "none")
"""The pools that a live run drives as they are ("none": without any). For the others it follows their rules."""


def overdue_kind(settings: PoolSettings) -> ErrorKind:
    """Return the error of an acquire that gives up, or that finds a full pool which does not queue."""
    library = LIBRARIES[settings.kind]
    return ErrorKind("pool", library.error, None, library.describe_exhaustion(settings))


def rejected_kind(settings: PoolSettings) -> ErrorKind:
    """Return the error of an acquire that finds as many waiting as max_waiting allows."""
    return ErrorKind("pool", "TooManyRequests", None, f"{settings.max_waiting} requests are waiting already")
