"""The pytest plugin: it fails the test that leaks and no other, and says where the connection was acquired."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from guard_runs import ROOT
from guard_suites import QUIET, Result, run_suite

pytestmark = pytest.mark.server

SHOP = """
class CardRejected(Exception):
    pass

def charge(pool, card):
    connection = pool.getconn()
    connection.execute("SELECT 'secret'")
    if card == "bad":
        raise CardRejected(card)
    connection.commit()
    pool.putconn(connection)
"""


Suite = Callable[..., Result]


@pytest.fixture
def suite(environment: dict[str, str], tmp_path: Path) -> Suite:
    def run(text: str, *options: str, **how: object) -> Result:
        files = {"test_it.py": text, "shop.py": SHOP, **how.pop("files", {})}  # type: ignore[dict-item]
        return run_suite(tmp_path, environment, files, *options, **how)  # type: ignore[arg-type]

    return run


LEAKING = """
import pytest
from shop import CardRejected, charge

def test_good_card(pool):
    charge(pool, "good")

def test_rejected_card(pool):
    with pytest.raises(CardRejected):
        charge(pool, "bad")

def test_after_it(pool):
    charge(pool, "good")
"""


# Suites that need no options of their own run together, each in a file and with a pool of its own: a pytest takes a
# second to start.
TOGETHER = {
    "test_charge.py": LEAKING,
    "test_fixtures.py": """
import psycopg, pytest
from conftest import DSN

@pytest.fixture
def closing():
    opened = []
    yield opened
    for connection in opened:
        connection.close()

def test_leaves_it_to_the_fixture(closing):
    closing.append(psycopg.connect(DSN))

@pytest.fixture(scope="module")
def shared(pool):
    connection = pool.getconn()
    yield connection

@pytest.fixture(scope="module")
def single():
    connection = psycopg.connect(DSN)
    yield connection

KEPT = []

@pytest.fixture
def asked_for():
    KEPT.append(psycopg.connect(DSN))

def test_asks_while_it_runs(request, pool):
    request.getfixturevalue("shared")
    request.getfixturevalue("asked_for")
    with pool.connection():
        pass

@pytest.fixture(scope="module")
def returned(pool):
    connection = pool.getconn()
    yield connection
    pool.putconn(connection)

def test_first(shared, single, returned):
    pass

def test_last(shared, single, returned):
    pass
""",
    "test_parameters.py": """
import psycopg, pytest
from conftest import DSN
KEPT = []

@pytest.fixture(scope="module", params=["kept", "closed"])
def opened(request):
    KEPT.append(psycopg.connect(DSN))
    yield
    if request.param == "closed":
        KEPT[-1].close()

def test_parameter(opened):
    pass

def test_behind():
    pass
""",
    "test_hand_over.py": """
import threading

def test_hand_over(pool):
    connection = pool.getconn()
    thread = threading.Thread(target=lambda: pool.putconn(connection))
    thread.start()
    thread.join()
""",
    "test_kinds.py": """
import unittest
import psycopg, pytest
from conftest import DSN
KEPT = []

@pytest.mark.poolctl(allow=1)
def test_allowed():
    KEPT.append(psycopg.connect(DSN))

@pytest.mark.poolctl(allow=1)
def test_one_too_many():
    KEPT.append(psycopg.connect(DSN))
    KEPT.append(psycopg.connect(DSN))

@pytest.mark.parametrize("number", [1, 2, 3])
def test_numbers(number):
    connection = psycopg.connect(DSN)
    KEPT.append(connection)
    if number != 2:
        connection.close()

class TestClass(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.connection = psycopg.connect(DSN)

    @classmethod
    def tearDownClass(cls):
        cls.connection.close()

    def setUp(self):
        self.own = psycopg.connect(DSN)

    def tearDown(self):
        self.own.close()

    def test_clean_method(self):
        self.own.execute("SELECT 1")

    def test_leaking_method(self):
        KEPT.append(psycopg.connect(DSN))
""",
    "test_ends.py": """
import pytest

def test_wrong(pool):
    connection = pool.getconn()
    assert connection is None

@pytest.fixture
def breaks():
    yield
    raise ValueError("teardown")

def test_leaks_and_breaks(pool, breaks):
    global kept
    kept = pool.getconn()

def test_next():
    pass
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def together(environment: dict[str, str], folder: Path) -> Result:
    files = {"shop.py": SHOP, **TOGETHER}
    return run_suite(folder, environment, files, "--strict-markers", "--junit-xml", "report.xml")


def test_the_test_that_leaks_fails_with_the_line_that_acquired(together: Result) -> None:
    assert together.outcome("test_rejected_card") == "FAILED"
    assert together.outcome("test_good_card") == together.outcome("test_after_it") == "PASSED"
    assert "test_rejected_card - 1 connection was acquired and not released" in together.output
    assert "acquired  shop.py:6 in charge, called from test_charge.py:10   psycopg_pool 'pool-1'" in together.output
    assert "in the error path: charge() raised CardRejected at shop.py:9, before release at :11" in together.output
    assert "idle in transaction (SELECT '...')" in together.output
    assert "SELECT 'secret'" not in together.output


def test_what_a_fixture_releases_in_its_teardown_is_no_leak(together: Result) -> None:
    assert together.outcome("test_leaves_it_to_the_fixture") == "PASSED"


def test_a_fixture_is_checked_when_its_scope_ends(together: Result) -> None:
    assert together.outcome("test_first") == "PASSED"
    assert together.outcome("test_last") == "ERROR"
    assert "by        fixture 'shared' (module scope)" in together.output
    assert "acquired  test_fixtures.py:17 in shared" in together.output
    assert "by        fixture 'single' (module scope)" in together.output
    assert "acquired  test_fixtures.py:22 in single" in together.output
    assert "in returned" not in together.output


def test_a_fixture_that_a_test_asks_for_while_it_runs_is_checked_as_one(together: Result) -> None:
    assert "ERROR test_fixtures.py::test_asks_while_it_runs - 1 connection was acquired" in together.output
    assert "by        fixture 'asked_for' (function scope)" in together.output
    assert "acquired  test_fixtures.py:29 in asked_for" in together.output
    assert "FAILED test_fixtures.py::test_asks_while_it_runs" not in together.output


def test_a_fixture_with_parameters_is_checked_before_the_next_parameter(together: Result) -> None:
    assert "ERROR test_parameters.py::test_parameter[closed] - 1 connection was acquired" in together.output
    assert "by        fixture 'opened' (module scope)" in together.output
    assert together.outcome("test_behind") == "PASSED"


def test_a_connection_that_is_handed_to_another_thread_fails_no_test_and_is_mentioned(together: Result) -> None:
    place = "test_hand_over.py"

    assert together.outcome("test_hand_over") == "PASSED"
    said = f"poolctl: acquired {place}:5 in test_hand_over, released by another thread {place}:6 in <lambda>"
    assert together.output.count(said) == 1


def test_a_mark_allows_a_number_of_connections(together: Result) -> None:
    assert together.outcome("test_allowed") == "PASSED"
    assert together.outcome("test_one_too_many") == "FAILED"


def test_parametrized_and_unittest_tests_are_each_checked(together: Result) -> None:
    assert [together.outcome(f"test_numbers[{number}]") for number in (1, 2, 3)] == ["PASSED", "FAILED", "PASSED"]
    assert together.outcome("TestClass::test_clean_method") == "PASSED"
    assert together.outcome("TestClass::test_leaking_method") == "FAILED"


def test_a_test_that_fails_by_itself_shows_what_it_holds(together: Result) -> None:
    assert "assert <psycopg.Connection" in together.output
    assert "connections (poolctl)" in together.output
    assert "acquired  test_ends.py:5 in test_wrong" in together.output


def test_a_teardown_that_fails_is_still_an_error_of_the_teardown(together: Result) -> None:
    assert "FAILED test_ends.py::test_leaks_and_breaks" in together.output
    assert "ERROR test_ends.py::test_leaks_and_breaks - ValueError: teardown" in together.output
    assert together.outcome("test_next") == "PASSED"


def test_junit_output_carries_the_acquire_line(together: Result, folder: Path) -> None:
    text = (folder / "report.xml").read_text(encoding="utf-8")

    assert 'message="1 connection was acquired and not released"' in text
    assert '<property name="poolctl_acquired" value="shop.py:6"' in text


def test_without_the_option_nothing_is_said(suite: Suite) -> None:
    result = suite(LEAKING, on=False)

    assert result.code == 0
    assert "not released" not in result.output


def test_the_configuration_switches_it_on_and_an_option_off(suite: Suite) -> None:
    files = {"pytest.ini": "[pytest]\npoolctl = true\n"}

    assert suite(LEAKING, on=False, files=files).outcome("test_rejected_card") == "FAILED"
    assert suite(LEAKING, "--no-poolctl", on=False, files=files).code == 0


def test_under_the_guard_command_the_plugin_is_on(suite: Suite) -> None:
    result = suite(LEAKING, command=[sys.executable, "-m", "poolctl", "guard", "--"])

    assert result.outcome("test_rejected_card") == "FAILED"
    assert "poolctl guard:" in result.output


def test_the_whole_suite_may_have_an_allowance_and_a_longest_hold(suite: Suite) -> None:
    text = """
import psycopg, pytest, time
from conftest import DSN
KEPT = []

@pytest.mark.poolctl(threshold="30s")
def test_keeps():
    KEPT.append(psycopg.connect(DSN))

def test_slow(pool):
    with pool.connection():
        time.sleep(0.3)

@pytest.mark.poolctl(threshold="30s")
def test_slow_as_it_may_be(pool):
    with pool.connection():
        time.sleep(0.3)
"""
    result = suite(text, "--poolctl-allow", "1", "--poolctl-threshold", "100ms")

    assert result.outcome("test_keeps") == result.outcome("test_slow_as_it_may_be") == "PASSED"
    assert "FAILED test_it.py::test_slow - a connection was held for 3" in result.output


OUTCOMES = """
import time, unittest
import pytest
from conftest import DSN
import psycopg
KEPT = []

@pytest.mark.poolctl(threshold="100ms")
def test_slow(pool):
    with pool.connection():
        time.sleep(0.2)

def test_as_slow(pool):
    with pool.connection():
        time.sleep(0.2)

class TestCase(unittest.TestCase):
    def test_fails(self):
        KEPT.append(psycopg.connect(DSN))  # line 19
        raise KeyError("mine")

def test_fails_by_pytest():
    KEPT.append(psycopg.connect(DSN))  # line 23
    pytest.fail("mine")

def test_skipped():
    KEPT.append(psycopg.connect(DSN))  # line 27
    pytest.skip("mine")

@pytest.mark.xfail
def test_expected():
    KEPT.append(psycopg.connect(DSN))  # line 32
    raise ValueError

@pytest.fixture
def closed():
    yield
    KEPT.pop().close()

def test_skipped_and_closed(closed):
    KEPT.append(psycopg.connect(DSN))
    pytest.skip("mine")
"""


def test_what_ends_without_a_failure_of_its_own_is_mentioned_if_it_leaks(suite: Suite) -> None:
    result = suite(OUTCOMES)

    assert "FAILED test_it.py::test_slow - a connection was held for" in result.output
    assert result.outcome("test_as_slow") == "PASSED"
    assert result.output.count("connections (poolctl)") >= 2
    assert "acquired  test_it.py:19 in test_fails" in result.output
    assert "acquired  test_it.py:23 in test_fails_by_pytest" in result.output
    mentioned = [line for line in result.output.splitlines() if line.startswith("poolctl: ")]
    assert mentioned == [
        "poolctl: test_it.py::test_skipped: acquired test_it.py:27 in test_skipped and not released",
        "poolctl: test_it.py::test_expected: acquired test_it.py:32 in test_expected and not released",
    ]


def test_a_wait_that_is_too_long_fails_with_every_holder(suite: Suite) -> None:
    result = suite(
        """
def test_hangs(pool):
    first = pool.getconn()
    second = pool.getconn()
    try:
        pool.getconn()
    finally:
        pool.putconn(first)
        pool.putconn(second)
""",
        "--poolctl-timeout",
        "500ms",
    )

    assert result.outcome("test_hangs") == "FAILED"
    assert "waited    test_it.py:6 in test_hangs" in result.output
    assert "held      2 of 2" in result.output
    assert "by      test_it.py:3 in test_hangs" in result.output
    assert "by      test_it.py:4 in test_hangs" in result.output


def test_xdist_workers_check_their_own_tests(suite: Suite) -> None:
    skipped = """
def test_skipped(pool):
    global kept
    kept = pool.getconn()
    pytest.skip("mine")
"""
    result = suite(LEAKING + skipped, "-n", "1", plugins=QUIET[:-2])

    assert result.outcome("test_rejected_card") == "FAILED"
    assert result.outcome("test_good_card") == "PASSED"
    said = "poolctl: test_it.py::test_skipped: acquired test_it.py:17 in test_skipped and not released"
    assert result.output.count(said) == 1


def test_a_test_that_runs_again_is_judged_afresh(suite: Suite) -> None:
    pytest.importorskip("pytest_rerunfailures")
    result = suite(
        """
import psycopg, pytest
from conftest import DSN
KEPT = []

def test_flaky():
    if not KEPT:
        KEPT.append(psycopg.connect(DSN))

@pytest.fixture
def breaks():
    yield
    if len(KEPT) < 3:
        raise ValueError("teardown")

def test_flaky_teardown(breaks):
    if len(KEPT) < 2:
        KEPT.append(psycopg.connect(DSN))
    else:
        KEPT.append(None)
""",
        "--reruns",
        "1",
        plugins=QUIET[:6],
    )

    assert "2 passed, 3 rerun" in result.output


ASYNC_LEAK = """
import asyncio
import psycopg_pool, pytest
from conftest import DSN
{mark}

@pytest.fixture{scope}
async def apool():
    pool = psycopg_pool.AsyncConnectionPool(DSN, min_size=1, max_size=2, open=False)
    await pool.open()
    yield pool
    await pool.close()

async def test_clean(apool):
    async with apool.connection() as connection:
        await connection.execute("SELECT 1")

async def test_leaks(apool):
    connection = await apool.getconn()
    await connection.execute("SELECT 1")

async def test_cancelled(apool):
    acquired = asyncio.Event()

    async def work():
        connection = await apool.getconn()
        acquired.set()
        await asyncio.sleep(30)
        await apool.putconn(connection)

    task = asyncio.create_task(work())
    await acquired.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
"""


def test_pytest_asyncio(suite: Suite) -> None:
    pytest.importorskip("pytest_asyncio")
    ini = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"

    result = suite(ASYNC_LEAK.format(mark="", scope=""), plugins=QUIET[2:], files={"pytest.ini": ini})

    assert result.outcome("test_clean") == "PASSED", result.output
    assert result.outcome("test_leaks") == result.outcome("test_cancelled") == "FAILED"
    assert "acquired  test_it.py:19 in test_leaks" in result.output
    assert "acquired  test_it.py:26 in work" in result.output


def test_anyio(suite: Suite) -> None:
    pytest.importorskip("anyio")
    text = ASYNC_LEAK.format(
        mark='pytestmark = pytest.mark.anyio\n\n@pytest.fixture\ndef anyio_backend():\n    return "asyncio"\n', scope=""
    )

    result = suite(text, plugins=(*QUIET[:2], *QUIET[4:]))

    assert result.outcome("test_clean") == "PASSED", result.output
    assert result.outcome("test_leaks") == result.outcome("test_cancelled") == "FAILED"


DJANGO = """
import threading
import pytest
from django.db import connection
from django.test import TestCase, TransactionTestCase
THREADS = []

def count():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")

class TestOne(TestCase):
    def test_own(self):
        count()

    def test_thread(self):
        ready, done = threading.Event(), threading.Event()

        def work():
            count()
            ready.set()
            done.wait(2)

        THREADS.append(threading.Thread(target=work, name="own"))
        THREADS[-1].start()
        ready.wait()

class TestTwo(TransactionTestCase):
    def test_transaction(self):
        count()

@pytest.mark.django_db
def test_fixture():
    count()
"""
SETTINGS = """
import os
from psycopg.conninfo import conninfo_to_dict
parts = conninfo_to_dict(os.environ["GUARD_DSN"])
SECRET_KEY, INSTALLED_APPS, USE_TZ = "x", [], True
DATABASES = {"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": parts["dbname"], "USER": parts["user"],
    "HOST": parts["host"], "PORT": parts["port"], "TEST": {"NAME": parts["dbname"]}}}
"""


def test_djangos_own_connection_is_no_leak_and_that_of_a_thread_is(suite: Suite) -> None:
    pytest.importorskip("pytest_django")
    files = {"settings.py": SETTINGS, "pytest.ini": "[pytest]\nDJANGO_SETTINGS_MODULE = settings\npythonpath = .\n"}

    result = suite(DJANGO, "--reuse-db", plugins=(*QUIET[:4], *QUIET[6:]), files=files)

    assert [result.outcome(f"test_{name}") for name in ("own", "transaction", "fixture")] == ["PASSED"] * 3
    assert result.outcome("test_thread") == "FAILED"
    assert "by        thread own" in result.output


def test_a_bad_value_of_an_option_is_refused(suite: Suite) -> None:
    result = suite(LEAKING, "--poolctl-timeout", "soon")

    assert result.code == 4
    assert "poolctl_timeout: 'soon'" in result.output


def test_the_plugin_costs_nothing_while_it_is_off() -> None:
    program = (
        "import sys, pytest; before = set(sys.modules); import poolctl.guard.pytest_plugin; "
        "print(*sorted(set(sys.modules) - before))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )

    assert finished.stdout.split() == ["poolctl", "poolctl.guard", "poolctl.guard.pytest_plugin"]
