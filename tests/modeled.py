"""Scenarios for the model engine, written short."""

from typing import Any

from poolctl.engines.model import simulate
from poolctl.scenario.run import Run
from poolctl.scenario.scenario import parse_scenario


def constant(seconds: float) -> dict[str, Any]:
    return {"distribution": "constant", "mean": seconds}


def exponential(seconds: float) -> dict[str, Any]:
    return {"distribution": "exponential", "mean": seconds}


def run(*, pool: dict[str, Any] | None = None, database: dict[str, Any] | None = None, **sections: Any) -> Run:
    """What is not a section is a key of load. Cores are unlimited and openings take no time unless told."""
    interval = sections.pop("interval", 1.0)
    top: dict[str, Any] = {key: sections.pop(key) for key in ("events", "leak", "service") if key in sections}
    values: dict[str, Any] = {
        "name": "modeled",
        "database": {"cores": "unlimited", "connect_time": 0, "max_connections": 10_000} | (database or {}),
        "load": sections,
    }
    values |= top
    if "service" not in top:
        values["pool"] = pool or {}
    return simulate(parse_scenario(values), interval=interval)


def mm(servers: int, load: float, duration: float, *, pool: dict[str, Any] | None = None, **keys: Any) -> Run:
    """A queue with ``servers`` connections, a mean hold of 1 s and ``load`` arrivals a second."""
    return run(
        pool={"max_open": servers, "max_idle": servers} | (pool or {}),
        rate=load,
        duration=duration,
        warmup=min(100.0, duration / 10),
        **({"hold": exponential(1.0)} | keys),
    )
