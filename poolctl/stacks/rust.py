"""The pools of Rust: sqlx, deadpool, r2d2, bb8. None has a jitter; deadpool closes no old connection by itself.

With a jitter, each process draws its own lifetime with the crate rand.
"""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import FOR_EVER, format_rust_duration, round_seconds
from poolctl.stacks.stack import Stack

_RETIRES_EVERY = 30.0
"""Seconds between two runs of deadpool's task that closes old connections, as in r2d2."""


def _lifetime(advice: PoolAdvice) -> str:
    """Return the lifetime as a Duration; with a jitter, an expression by which each process draws its own."""
    assert advice.max_lifetime is not None
    assert advice.least_lifetime is not None
    shortest, longest = round_seconds(advice.least_lifetime), round_seconds(advice.max_lifetime)
    if shortest == longest:
        return format_rust_duration(advice.max_lifetime)
    return f"Duration::from_secs(rand::random_range({shortest}..={longest}))"


def _drawn(advice: PoolAdvice) -> str:
    return " // rand 0.9" if advice.jitter_time else ""


def _sqlx(advice: PoolAdvice) -> Iterator[str]:
    yield "let pool = PgPoolOptions::new()"
    yield f"    .max_connections({advice.max_open})"
    yield f"    .min_connections({advice.min_idle})"
    if advice.max_lifetime is None:
        yield "    .max_lifetime(None)"
    else:
        yield f"    .max_lifetime({_lifetime(advice)}){_drawn(advice)}"
    idle = "None" if advice.max_idle_time is None else format_rust_duration(advice.max_idle_time)
    yield f"    .idle_timeout({idle})"
    if advice.acquire_timeout is None:
        yield f"    .acquire_timeout({format_rust_duration(FOR_EVER)}) // no off, and Duration::MAX overflows"
    else:
        yield f"    .acquire_timeout({format_rust_duration(advice.acquire_timeout)})"
    yield '    .connect(&std::env::var("DATABASE_URL")?)'
    yield "    .await?;"


def _deadpool(advice: PoolAdvice) -> Iterator[str]:
    yield "let pool = Pool::builder(manager)"
    yield f"    .max_size({advice.max_open})"
    if advice.acquire_timeout is None:
        yield "    .wait_timeout(None) // waits without a limit"
    else:
        yield f"    .wait_timeout(Some({format_rust_duration(advice.acquire_timeout)}))"
        yield "    .runtime(Runtime::Tokio1) // required for a pool with a timeout"
    yield "    .build()?;"
    kept = []
    if advice.max_lifetime is not None:
        yield f"let max_lifetime = {_lifetime(advice)};{_drawn(advice)}"
        kept.append("metrics.age() < max_lifetime")
    if advice.max_idle_time is not None:
        yield f"let max_idle_time = {format_rust_duration(advice.max_idle_time)};"
        kept.append("metrics.last_used() < max_idle_time")
    if kept:
        yield "let retired = pool.clone();"
        yield "// deadpool has no lifetime and no idle time."
        yield "tokio::spawn(async move {"
        yield "    loop {"
        yield f"        tokio::time::sleep({format_rust_duration(_RETIRES_EVERY)}).await;"
        yield f"        retired.retain(|_, metrics| {' && '.join(kept)});"
        yield "    }"
        yield "});"
    else:
        yield "// deadpool has no lifetime and no idle time: a connection stays until it breaks."


def _r2d2(advice: PoolAdvice) -> Iterator[str]:
    yield from _build_pool(advice, "r2d2", min_idle=" // None means max_size: build() would wait for all")
    yield "    .build(manager)?;"


def _bb8(advice: PoolAdvice) -> Iterator[str]:
    yield from _build_pool(advice, "bb8", max_idle_time=" // closes connections above min_idle")
    yield "    .build(manager)"
    yield "    .await?;"


def _build_pool(advice: PoolAdvice, crate: str, *, min_idle: str = "", max_idle_time: str = "") -> Iterator[str]:
    """Yield the builder of r2d2, which bb8 took over, with a comment behind a line."""
    yield f"let pool = {crate}::Pool::builder()"
    yield f"    .max_size({advice.max_open})"
    yield f"    .min_idle(Some({advice.min_idle})){min_idle}"
    if advice.max_lifetime is None:
        yield "    .max_lifetime(None)"
    else:
        yield f"    .max_lifetime(Some({_lifetime(advice)})){_drawn(advice)}"
    idle = "None" if advice.max_idle_time is None else f"Some({format_rust_duration(advice.max_idle_time)})"
    yield f"    .idle_timeout({idle}){max_idle_time}"
    if advice.acquire_timeout is None:
        yield f"    .connection_timeout({format_rust_duration(FOR_EVER)}) // no off: 0 panics"
    else:
        yield f"    .connection_timeout({format_rust_duration(advice.acquire_timeout)})"


SQLX = Stack(
    name="sqlx",
    library="sqlx 0.7 and later",
    file="main.rs",
    comment="//",
    aliases=("rust", "sqlx-rust", "seaorm", "sea-orm"),
    write=_sqlx,
)
DEADPOOL = Stack(
    name="deadpool",
    library="deadpool-postgres 0.10 and later",
    file="main.rs",
    comment="//",
    aliases=("deadpool-postgres", "tokio-postgres"),
    write=_deadpool,
)
R2D2 = Stack(
    name="r2d2",
    library="r2d2 0.8",
    file="main.rs",
    comment="//",
    aliases=("diesel", "r2d2-postgres"),
    write=_r2d2,
)
BB8 = Stack(
    name="bb8",
    library="bb8 0.8 and later",
    file="main.rs",
    comment="//",
    aliases=("bb8-postgres", "diesel-async"),
    write=_bb8,
)
