"""Asks one question: would a client be let in, and if not, who says no?"""

from poolctl.observe.connection import PATIENCE, Connection
from poolctl.observe.refusals import Refused
from poolctl.observe.snapshot import Refusal


def refusal_of(conninfo: str, *, within: float = PATIENCE) -> Refusal | None:
    """Why the client that ``conninfo`` describes is turned away now; None when it is let in, and leaves at once.

    Takes one connection for some milliseconds where it is let in. Raises BadInput for a conninfo that cannot be read.
    """
    try:
        Connection.open(conninfo, within=within).close()
    except Refused as error:
        return error.refusal
    return None
