"""Laravel, and PHP-FPM in general. PHP has no pool: each worker process has one connection while it serves a request.

So the number of workers is the size of the pool, and the settings are those of PHP-FPM.
"""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.stack import Stack


def _write(advice: PoolAdvice) -> Iterator[str]:
    yield "; PHP has no pool: each worker has one connection for each database, opened and closed with its request."
    yield "; So the workers are the limit, for all of an instance together (Octane: --workers)."
    yield "pm = dynamic"
    yield f"pm.max_children = {advice.max_open}"
    spare = max(1, min(advice.max_idle, advice.max_open))
    least = max(1, min(advice.min_idle, spare))
    yield f"pm.start_servers = {least}"
    yield f"pm.min_spare_servers = {least}"
    yield f"pm.max_spare_servers = {spare}"
    yield "; Queue workers and Horizon processes (maxProcesses) have a connection each on top."
    yield "; PDO::ATTR_PERSISTENT keeps the connection between requests, with an open transaction if there is one."


STACK = Stack(
    name="laravel",
    library="Laravel 10 and later on PHP-FPM 8",
    file="www.conf",
    comment=";",
    owner="instances",
    aliases=("php", "php-fpm", "symfony", "doctrine", "eloquent", "pdo", "octane"),
    write=_write,
)
