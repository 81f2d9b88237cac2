"""The shop's fixtures. ``--shop fixed`` tests the package without the leaks.

DATABASE_URL names a PostgreSQL that the tests may create three tables in.
"""

import importlib
import os
import sys
from pathlib import Path

import psycopg_pool
import pytest

sys.path.insert(0, str(Path(__file__).parent))

TABLES = """
DROP TABLE IF EXISTS orders, stock, audit;
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
    with psycopg_pool.ConnectionPool(os.environ["DATABASE_URL"], min_size=1, max_size=4, open=True) as pool:
        pool.wait()  # a caller that comes before the first connection is open makes the pool open a second one
        with pool.connection() as connection:
            connection.execute(TABLES)
        yield pool
