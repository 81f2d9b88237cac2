"""The shop's fixtures. ``--shop fixed`` tests the package without the leaks.

DATABASE_URL names a PostgreSQL in which the tests may make a schema of their own, poolctl_shop.
`poolctl simulate --keep` leaves a throw-away server running.
"""

import importlib
import os
import sys
from pathlib import Path

import psycopg_pool
import pytest

sys.path.insert(0, str(Path(__file__).parent))

TABLES = """
DROP SCHEMA IF EXISTS poolctl_shop CASCADE;
CREATE SCHEMA poolctl_shop;
CREATE TABLE orders (id int, refunded bool DEFAULT false);
CREATE TABLE stock (name text, amount int, price int);
CREATE TABLE audit (line text);
INSERT INTO orders SELECT generate_series(1, 10);
INSERT INTO stock SELECT 'item ' || n, n, 10 FROM generate_series(1, 10) n;
"""


def pytest_addoption(parser):
    """Add --shop."""
    parser.addoption("--shop", default="shop", choices=["shop", "fixed"])


@pytest.fixture
def shop(request):
    """The package under test."""
    name = request.config.getoption("--shop")
    for module in ("refund", "stock", "audit"):
        importlib.import_module(f"{name}.{module}")
    return sys.modules[name]


@pytest.fixture(scope="session")
def pool():
    """One pool for all tests."""
    if "DATABASE_URL" not in os.environ:
        pytest.exit("DATABASE_URL is not set: see the top of conftest.py", returncode=2)
    # In a schema of its own: the variable may name a database that has orders already.
    own = {"options": "-c search_path=poolctl_shop"}
    with psycopg_pool.ConnectionPool(os.environ["DATABASE_URL"], kwargs=own, min_size=1, max_size=4, open=True) as pool:
        pool.wait()  # a caller that comes before the first connection is open makes the pool open a second one
        with pool.connection() as connection:
            connection.execute(TABLES)
        yield pool
