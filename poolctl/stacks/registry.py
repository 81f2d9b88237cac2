"""All stacks by name, and the one function that writes a configuration."""

import difflib
import re

from poolctl.errors import BadInput
from poolctl.stacks import (
    asyncpg,
    django,
    ecto,
    generic_pool,
    go_sql,
    hikaricp,
    jdbc_properties,
    knex,
    laravel,
    mysql2,
    node_pg,
    npgsql,
    odyssey,
    pgagroal,
    pgbouncer,
    pgcat,
    pgpool,
    pgxpool,
    postgres_js,
    prisma6,
    psycopg2_pool,
    psycopg_pool,
    quarkus,
    r2dbc,
    rails,
    rds_proxy,
    rust,
    sequel,
    sequelize,
    sqlalchemy,
    supavisor,
    vertx,
)
from poolctl.stacks.settings import PoolAdvice, PoolerAdvice
from poolctl.stacks.stack import Config, Stack

_ALL = (
    go_sql.STACK,
    go_sql.GORM,
    pgxpool.STACK,
    psycopg_pool.STACK,
    psycopg2_pool.STACK,
    sqlalchemy.STACK,
    django.POOL,
    django.PERSISTENT,
    asyncpg.STACK,
    node_pg.NODE_PG,
    knex.STACK,
    node_pg.TYPEORM,
    node_pg.PRISMA,
    prisma6.STACK,
    sequelize.STACK,
    postgres_js.STACK,
    generic_pool.STACK,
    mysql2.STACK,
    hikaricp.HIKARICP,
    hikaricp.SPRING_BOOT,
    jdbc_properties.TOMCAT,
    jdbc_properties.DBCP2,
    jdbc_properties.C3P0,
    quarkus.STACK,
    r2dbc.STACK,
    vertx.STACK,
    npgsql.STACK,
    rails.RAILS,
    rails.RAILS_8_0,
    sequel.STACK,
    laravel.STACK,
    ecto.STACK,
    rust.SQLX,
    rust.DEADPOOL,
    rust.R2D2,
    rust.BB8,
    pgbouncer.STACK,
    pgagroal.STACK,
    pgpool.STACK,
    rds_proxy.STACK,
    pgcat.STACK,
    odyssey.STACK,
    supavisor.STACK,
)
STACKS: dict[str, Stack] = {stack.name: stack for stack in _ALL}
"""By the name that JSON shows; ``find_stack`` knows the aliases, too."""


def _key(name: str) -> str:
    return re.sub(r"[\s_]+", "-", name.strip().lower())


_BY_ALIAS = {_key(alias): stack for stack in _ALL for alias in (stack.name, *stack.aliases)}


def find_stack(name: str) -> Stack:
    """Return the stack with that name or alias, in any case. Raises BadInput with similar names for an unknown one."""
    found = _BY_ALIAS.get(_key(name))
    if found is not None:
        return found
    near = list(dict.fromkeys(_BY_ALIAS[word].name for word in difflib.get_close_matches(_key(name), _BY_ALIAS, 3)))
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    raise BadInput(f"{name!r} is not a stack that poolctl can write{meant}", hint=f"stacks: {', '.join(STACKS)}")


def render(stack: str, advice: PoolAdvice | PoolerAdvice) -> Config:
    """Write the configuration of ``stack`` (a name or alias) that follows ``advice``.

    Raises BadInput for an unknown stack, TypeError for a pool's advice given to a pooler or the reverse.
    """
    found = find_stack(stack)
    if not isinstance(advice, found.takes):
        raise TypeError(f"{found.name} takes a {found.takes.__name__}, not a {type(advice).__name__}")
    lines = [*_header(found, advice), *found.write(advice)]
    return Config(found.name, found.file, "\n".join(lines) + "\n")


def _header(stack: Stack, advice: PoolAdvice | PoolerAdvice) -> list[str]:
    if not isinstance(advice, PoolAdvice) or advice.processes is None:
        return []
    total = advice.max_open * advice.processes
    each = "1 connection" if advice.max_open == 1 else f"{advice.max_open} connections"
    return [f"{stack.comment} {each} in each of {advice.processes} {stack.owner}: {total} at worst."]
