"""The built-in loads of ``recommend --sweep``: what they do, and the tables that they need on the throw-away server.

Each stands for a shape whose best number of connections differs: ``cpu`` is bound by processors, ``think`` holds its
connection while the application works, ``hot-rows`` waits for a few rows that everybody updates, ``mixed`` has all.
"""

from poolctl.engines.pgbench import Script
from poolctl.errors import BadInput

SETUP = """
CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL);
INSERT INTO account SELECT i, 0 FROM generate_series(1, 100000) AS i;
CREATE TABLE branch (id int PRIMARY KEY, balance int NOT NULL) WITH (fillfactor = 10);
INSERT INTO branch SELECT i, 0 FROM generate_series(1, 10) AS i;
ANALYZE
"""

_CPU = "SELECT sum(i) FROM generate_series(1, 3000) AS i;\n"

_THINK = r"""
\set account random(1, 100000)
BEGIN;
SELECT balance FROM account WHERE id = :account;
\sleep 5 ms
UPDATE account SET balance = balance + 1 WHERE id = :account;
COMMIT;
"""

_HOT_ROWS = r"""
\set account random(1, 100000)
\set branch random(1, 10)
BEGIN;
UPDATE account SET balance = balance + 1 WHERE id = :account;
UPDATE branch SET balance = balance + 1 WHERE id = :branch;
COMMIT;
"""

MIXES: dict[str, tuple[Script, ...]] = {
    "cpu": (Script("cpu", _CPU),),
    "think": (Script("think", _THINK),),
    "hot-rows": (Script("hot-rows", _HOT_ROWS),),
    "mixed": (Script("cpu", _CPU, 4), Script("think", _THINK, 3), Script("hot-rows", _HOT_ROWS, 3)),
}


def mix(name: str) -> tuple[Script, ...]:
    """The scripts of a built-in load. Raises BadInput."""
    if name not in MIXES:
        raise BadInput(f"--mix {name}: there is no such load", hint=f"one of {', '.join(MIXES)}")
    return MIXES[name]
