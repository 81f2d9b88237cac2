"""Django, in both ways: with a psycopg_pool (5.1 and later, psycopg 3), or one persistent connection for each
thread.
"""

from collections.abc import Iterator

from poolctl.stacks.psycopg_pool import list_settings
from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import round_seconds
from poolctl.stacks.stack import Stack


def _pool(advice: PoolAdvice) -> Iterator[str]:
    yield "# Below DATABASES. Each process has a pool for each alias. A connection returns when its request ends,"
    yield "# so threads beyond max_size wait for whole requests."
    yield 'DATABASES["default"]["CONN_MAX_AGE"] = 0  # Django refuses the pool with any other value'
    yield 'DATABASES["default"]["CONN_HEALTH_CHECKS"] = True'
    yield 'DATABASES["default"].setdefault("OPTIONS", {})["pool"] = {'
    for name, value, remark in list_settings(advice):
        yield f'    "{name}": {value},' + (f"  # {remark}" if remark else "")
    yield "}"


def _persistent(advice: PoolAdvice) -> Iterator[str]:
    yield "# Below DATABASES. There is no pool and no limit: each thread keeps a connection for each alias, and no"
    yield "# unused connection is closed. So the number of threads is the limit:"
    yield f"# at most {advice.max_open} in each process (gunicorn --threads {advice.max_open})."
    if advice.waiting_workers:
        yield f"# {advice.workers} threads open {advice.workers} connections: run fewer threads, or use the pool."
    yield 'DATABASES["default"] |= {'
    if advice.max_lifetime is None:
        yield '    "CONN_MAX_AGE": None,  # no limit; 0 would open a connection for each request'
    else:
        age = round_seconds(advice.max_lifetime)
        yield f'    "CONN_MAX_AGE": {age},  # seconds, checked at each request; no jitter'
    yield '    "CONN_HEALTH_CHECKS": True,  # without it the first request after a failover fails'
    yield "}"


POOL = Stack(
    name="django",
    library='Django 5.1 and later, OPTIONS["pool"]',
    file="settings.py",
    aliases=("django-pool", "django-5"),
    write=_pool,
)
PERSISTENT = Stack(
    name="django-persistent",
    library="Django, CONN_MAX_AGE",
    file="settings.py",
    aliases=("django-conn-max-age", "conn_max_age", "django-4"),
    write=_persistent,
)
