"""Django, both ways: a psycopg_pool (5.1 and later, psycopg 3), or one persistent connection for each thread."""

from collections.abc import Iterator

from poolctl.stacks.psycopg_pool import list_settings
from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import round_seconds
from poolctl.stacks.stack import Stack


def _pool(advice: PoolAdvice) -> Iterator[str]:
    yield "# Below DATABASES. A pool for each process and alias. A connection goes back when its request ends:"
    yield "# threads beyond max_size wait for whole requests."
    yield 'DATABASES["default"]["CONN_MAX_AGE"] = 0  # with any other value the pool is refused'
    yield 'DATABASES["default"]["CONN_HEALTH_CHECKS"] = True'
    yield 'DATABASES["default"].setdefault("OPTIONS", {})["pool"] = {'
    for name, value, remark in list_settings(advice):
        yield f'    "{name}": {value},' + (f"  # {remark}" if remark else "")
    yield "}"


def _persistent(advice: PoolAdvice) -> Iterator[str]:
    yield "# Below DATABASES. No pool and no limit: each thread keeps a connection for each alias, nobody waits"
    yield "# for one, and nothing closes an unused one. So the threads are the limit:"
    yield f"# at most {advice.max_open} in each process (gunicorn --threads {advice.max_open})."
    yield 'DATABASES["default"] |= {'
    if advice.max_lifetime is None:
        yield '    "CONN_MAX_AGE": None,  # for ever; 0 would open one for each request'
    else:
        age = round_seconds(advice.max_lifetime)
        yield f'    "CONN_MAX_AGE": {age},  # seconds, looked at with each request; no jitter'
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
