"""A run's numbers as labeled rows, for every way of showing them. Pure: no layout, no color.

Decides which numbers a person sees, in which words, and that they visibly add up.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from poolctl.safe_text import neutralize
from poolctl.scenario.histogram import Times
from poolctl.scenario.run import ObservedServer, Run, Summary
from poolctl.scenario.scenario import Distribution, Load, Scenario, Service
from poolctl.units import format_count, format_duration

_SECONDS = re.compile(r"_at$|(^|_)(time|wait|duration|hold)(_(?!stretch)|$)")


@dataclass(frozen=True, slots=True)
class Item:
    """One number. ``sign`` joins it to the one before: "=" or "+" where they add up, "" otherwise."""

    name: str
    value: str
    sign: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    """A row: what it is about, its numbers, and what they include."""

    label: str
    items: tuple[Item, ...]
    note: str = ""


def facts_of(run: Run) -> tuple[Fact, ...]:
    summary = run.summary
    facts = [
        *_acquires(summary),
        *_times(summary),
        *_connections(summary, limit_of(run.scenario)),
        *(_server(summary.server, run.scenario.load.query) if summary.server else ()),
        *_generator(run),
        *_services(run),
    ]
    return tuple(facts)


def limit_of(scenario: Scenario) -> int:
    """Most connections that the pools of all services may open together; 0: unlimited."""
    limits = [part.pool.max_open * part.load.instances for part in scenario.all_services]
    return sum(limits) if all(limits) else 0


def describe(run: Run) -> str:
    """What was run, in one line."""
    scenario = run.scenario
    kernel = f" ({run.kernel} kernel)" if run.kernel else ""
    head = f"{neutralize(scenario.name, 80)}: {run.engine} run{kernel}"
    pooler = f" through {scenario.database.via}" if scenario.database.via != "none" else ""
    if not scenario.services:
        return ", ".join([head, *_describe_part(scenario.all_services[0], pooler), f"seed {run.seed}"])
    told = [f"{neutralize(part.name, 40)}: {', '.join(_describe_part(part, pooler))}" for part in scenario.services]
    return f"{head}, {_counted(len(told), 'service')}; {'; '.join(told)}; seed {run.seed}"


def _describe_part(part: Service, pooler: str) -> list[str]:
    pool, load = part.pool, part.load
    sizes = [f"max_open {pool.max_open or 'unlimited'}", f"max_idle {pool.max_idle}"]
    if pool.acquire_timeout is not None:
        sizes.append(f"acquire_timeout {format_duration(pool.acquire_timeout)}")
    parts = [
        pool.kind + ("" if pool.kind == "none" else f" ({', '.join(sizes)})") + pooler,
        f"{_counted(load.instances, 'instance')} with {_demand(load)}",
        f"hold {_distribution(load.hold)}" if load.query == "sleep" else f"query {neutralize(load.query, 60)}",
    ]
    if part.leak.every:
        parts.append(f"every {_ordinal(part.leak.every)}request leaks ({part.leak.shape})")
    return parts


def evidence_items(evidence: Mapping[str, Any]) -> tuple[Item, ...]:
    """A finding's numbers, each on one line; what is unknown, and lists, tables and the rule's own threshold, are
    left to the JSON. Which are seconds and which are shares is told by their names."""
    return tuple(
        Item(neutralize(str(name), 40), _shown(name, value))
        for name, value in evidence.items()
        if name != "threshold" and value is not None and not isinstance(value, Mapping | list | tuple | set | frozenset)
    )


def _acquires(summary: Summary) -> Iterable[Fact]:
    ends = ("timed_out", "refused", "failed", "unfinished")
    others = [(name.replace("_", " "), getattr(summary, name)) for name in ends]
    yield _sum("offered", summary.offered, [("acquired", summary.acquired), *((n, v) for n, v in others if v)])
    still_in_use = summary.acquired - summary.released - summary.leaked
    parts = [("released", summary.released), ("leaked", summary.leaked)]
    yield _sum("acquired", summary.acquired, parts + ([("still in use", still_in_use)] if still_in_use else []))
    yield Fact(
        "rate",
        (
            Item("offered", f"{format_count(summary.offered_rate)}/s"),
            Item("released", f"{format_count(summary.throughput)}/s"),
        ),
        f"over {format_duration(summary.duration)}",
    )


def _times(summary: Summary) -> Iterable[Fact]:
    wait = summary.wait_time
    ends = {"timeouts": summary.timed_out, "refusals": summary.refused, "failures": summary.failed}
    included = _listed(["opening", *(name for name, count in ends.items() if count)])
    yield Fact("wait", _percentiles(wait), f"{included} included" if wait.count else "nothing was acquired")
    if summary.queued_count:
        mean = format_duration(summary.queued_time / summary.queued_count)
        items = (Item("acquires", format_count(summary.queued_count)), Item("mean", mean))
        yield Fact("queued", items, "only those that had to queue")
    if summary.use_time.count:
        yield Fact("use", _percentiles(summary.use_time), "acquire to release")
    if summary.connect_time.count:
        yield Fact("connect", _percentiles(summary.connect_time), f"{format_count(summary.connect_time.count)} opens")


def _connections(summary: Summary, limit: int) -> Iterable[Fact]:
    seen = summary.connections
    parts = [("in use", seen.in_use), ("idle", seen.idle), ("closed", seen.closed.total)]
    yield _sum("opened", seen.opened, [part for part in parts if part[1]] or parts[:1])
    if seen.closed.total:
        yield _sum("closed", seen.closed.total, [(name, value) for name, value in asdict(seen.closed).items() if value])
    if seen.open_failures:
        yield Fact("not opened", (Item("", format_count(seen.open_failures)),), "attempts that failed")
    bound = f" of {format_count(limit)}" if limit else ""
    items = (
        Item("open", f"{format_count(seen.peak_open)}{bound}"),
        Item("in use", format_count(seen.peak_in_use)),
        Item("average open", format_count(seen.average_open)),
        Item("average in use", format_count(seen.average_in_use)),
    )
    yield Fact("peak", items, "" if limit else "max_open is unlimited")


def _server(server: ObservedServer, query: str) -> Iterable[Fact]:
    items = []
    if server.peak_connections is not None:
        bound = f" of {format_count(server.usable)} usable" if server.usable is not None else ""
        items.append(Item("peak", f"{format_count(server.peak_connections)}{bound}"))
    if server.refused is not None:
        items.append(Item("refused", format_count(server.refused)))
    if server.cpu is not None:
        cores = f" of {format_count(server.cores)}" if server.cores else ""
        items.append(Item("CPU", f"{format_count(round(server.cpu, 2))}{cores} cores"))
    about = [f"PostgreSQL {neutralize(server.version, 40)}"] if server.version else []
    about += [f"max_connections {format_count(server.max_connections)}"] if server.max_connections else []
    if items or about:
        yield Fact("server", tuple(items), ", ".join(about))
    if server.states:
        common = sorted(server.states.items(), key=lambda state: (-state[1], state[0]))
        yield Fact("backends", tuple(Item(neutralize(name, 40), format_count(n)) for name, n in common[:8]))
    for table in server.scanned[:3]:
        items = [Item("rows", format_count(table.rows)), Item("scans", format_count(table.scans))]
        items.append(Item("rows read", format_count(table.rows_read)))
        yield Fact("read whole", (Item("", neutralize(table.name, 60)), *items))
    # All that a sleeping load does on the server is to sleep: which statement took the time is no news.
    for statement in server.statements[:3] if query != "sleep" else ():
        mean = statement.total_time / statement.calls if statement.calls else 0.0
        called = f"{_counted(statement.calls, 'call')}, mean {format_duration(mean)}"
        text = Item("", neutralize(statement.query, 120))
        yield Fact("statement", (Item("", _percent(statement.share)), Item("", called), text))


def _generator(run: Run) -> Iterable[Fact]:
    generator = run.generator
    if generator is None:
        return
    items = [Item("lag p99", format_duration(generator.lag.p99)), Item("CPU", f"{_percent(generator.cpu)} of a core")]
    if generator.ideal_wait is not None and generator.measured_wait is not None:
        items.append(Item("mean wait", format_duration(generator.measured_wait)))
        items.append(Item("ideal queue", format_duration(generator.ideal_wait)))
    yield Fact("generator", tuple(items))


def _services(run: Run) -> Iterable[Fact]:
    for part, (name, summary) in zip(run.scenario.services, run.services, strict=False):
        most = part.pool.max_open * part.load.instances
        bound = f" of {format_count(most)}" if most else ""
        lost = [(end.replace("_", " "), getattr(summary, end)) for end in ("timed_out", "refused", "failed")]
        items = [
            Item("acquired", f"{format_count(summary.acquired)} of {format_count(summary.offered)}"),
            Item("wait p99", format_duration(summary.wait_time.p99)),
            Item("peak in use", f"{format_count(summary.connections.peak_in_use)}{bound}"),
            *(Item(end, format_count(count)) for end, count in lost if count),
        ]
        yield Fact(neutralize(name, 20), tuple(items), "this service")


def _sum(label: str, total: int, parts: Iterable[tuple[str, int]]) -> Fact:
    items = [Item("", format_count(total))]
    for name, value in parts:
        items.append(Item(name, format_count(value), "=" if len(items) == 1 else "+"))
    return Fact(label, tuple(items))


def _percentiles(times: Times) -> tuple[Item, ...]:
    if not times.count:
        return ()
    values = (("p50", times.p50), ("p95", times.p95), ("p99", times.p99), ("max", times.max))
    return tuple(Item(name, format_duration(value)) for name, value in values)


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if not math.isfinite(value):
            return "unknown"
        if "share" in name:
            return _percent(value)
        return format_duration(value) if _SECONDS.search(name) else format_count(value)
    return neutralize(str(value), 120)


def _demand(load: Load) -> str:
    parts = [f"{format_count(load.rate)} arrivals/s"] if load.rate is not None else []
    parts += [_counted(load.workers, "worker")] if load.workers is not None else []
    bursts = sum(burst.workers for burst in load.bursts)
    parts += [f"{_counted(bursts, 'worker')} in bursts"] if bursts else []
    return " and ".join(parts)


def _distribution(distribution: Distribution) -> str:
    mean = format_duration(distribution.mean)
    return mean if distribution.kind == "constant" else f"{distribution.kind} {mean}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _counted(number: int, noun: str) -> str:
    return f"{format_count(number)} {noun}{'' if number == 1 else 's'}"


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return "" if number == 1 else f"{format_count(number)}{ending} "
