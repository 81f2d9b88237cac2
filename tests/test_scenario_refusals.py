"""Every refusal names the key in full, the value, the rule and the line."""

import tomllib

import pytest

from poolctl.errors import BadInput
from poolctl.pool import LIBRARIES
from poolctl.scenario.scenario import LEAK_SHAPES, parse_scenario
from poolctl.scenario.toml import TomlSource


def refusal(text: str) -> BadInput:
    with pytest.raises(BadInput) as refused:
        parse_scenario(tomllib.loads(text), TomlSource("file.toml", text))
    return refused.value


LOAD = "\n[load]\nworkers = 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[load]\nworkers = 1", "file.toml: name: is required"),
        ('name = ""' + LOAD, "file.toml, line 1: name: is required"),
        ("name = 5" + LOAD, "file.toml, line 1: name = 5: must be text in quotes"),
        ('name = "x"\nnmae = "y"' + LOAD, 'file.toml, line 2: nmae = "y": there is no such key; did you mean name?'),
        (
            'name = "x"\ndeploys = "together"\n[server]\nmax_connections = 9',
            "file.toml, line 3: server = {'max_connections': 9}: belongs to a fleet file",
        ),
        (
            'name = "x"\n[laod]\nworkers = 1',
            "file.toml, line 2: laod = {'workers': 1}: there is no such key; did you mean load?",
        ),
        (
            'name = "x"\n[load]\nworker = 1',
            "file.toml, line 3: load.worker = 1: there is no such key; did you mean workers?",
        ),
        ('name = "x"\n[load]\nworkers = 0', "file.toml, line 3: load.workers = 0: must be 1 or more"),
        ('name = "x"\n[load]\nrate = -1', "file.toml, line 3: load.rate = -1: must be more than 0, and finite"),
        (
            'name = "x"\n[load]\nworkers = 1\nrate = 5.0',
            "file.toml, line 4: load.rate = 5.0: give workers (closed loop) or rate (open loop), not both",
        ),
        (
            'name = "x"\n[load]\nseed = 1',
            "file.toml, line 2: load.workers: is missing: give workers (closed loop) or rate (open loop)",
        ),
        ('name = "x"\nload = 5', "file.toml, line 2: load = 5: must be a table"),
        (
            'name = "x"\n[load]\nworkers = 1\nduration = "5 parsecs"',
            'file.toml, line 4: load.duration = "5 parsecs": a duration is a number with a unit (us, ms, s, m, h, d),'
            ' such as "250ms" or "1h30m"',
        ),
        (
            'name = "x"\n[load]\nworkers = 1\nduration = "off"',
            'file.toml, line 4: load.duration = "off": must be a duration unless requests is given',
        ),
        (
            'name = "x"\n[load]\nworkers = 1\nduration = "5s"\nwarmup = "5s"',
            "file.toml, line 4: load.duration = 5.0: must be longer than warmup (5 s)",
        ),
        (
            'name = "x"\n[load]\nworkers = 1\nquery = " "',
            'file.toml, line 4: load.query = " ": must be sleep, select1, cpu or an SQL statement',
        ),
        (
            'name = "x"\n[load]\nworkers = 1\nhold = { distribution = "pareto", mean = "5ms" }',
            'file.toml, line 4: load.hold.distribution = "pareto": must be one of constant, exponential, lognormal',
        ),
        (
            'name = "x"\n[load]\nworkers = 1\nhold = { distribution = "constant" }',
            "file.toml, line 4: load.hold.mean: is required",
        ),
        (
            'name = "x"\n[load]\nworkers = 1\nhold = { maen = "5ms" }',
            'file.toml, line 4: load.hold.maen = "5ms": there is no such key; did you mean mean?',
        ),
        (
            'name = "x"\n[load]\nworkers = 1\n[load.hold]\nmean = "5ms"\ncv = 2.0',
            "file.toml, line 6: load.hold.cv = 2.0: means nothing for a constant distribution",
        ),
        (
            'name = "x"\n[load]\n[[load.bursts]]\nworkers = 5',
            'file.toml, line 3: load.bursts[0].at: is required, such as "5s"',
        ),
        (
            'name = "x"\n[load]\n[[load.bursts]]\nat = 1\n[[load.bursts]]\nat = "5s"\nuntil = "5s"',
            "file.toml, line 7: load.bursts[1].until = 5.0: must be after at (5 s)",
        ),
        (
            'name = "x"\n[load]\nbursts = 5',
            "file.toml, line 3: load.bursts = 5: must be an array of tables, written [[load.bursts]]",
        ),
        (
            'name = "x"\n[database]\nmax_connections = 3' + LOAD,
            "file.toml, line 2: database.reserved = 3: must be below max_connections (3)",
        ),
        ('name = "x"\n[database]\ncores = 0' + LOAD, "file.toml, line 3: database.cores = 0: must be 1 or more"),
        (
            'name = "x"\n[database]\nvia = "pgbuncer"' + LOAD,
            'file.toml, line 3: database.via = "pgbuncer": must be one of none, pgbouncer, pgpool;'
            " did you mean pgbouncer?",
        ),
        (
            'name = "x"\n[pool]\nkind = "wildfly"' + LOAD,
            f'file.toml, line 3: pool.kind = "wildfly": must be one of {", ".join(LIBRARIES)}',
        ),
        (
            'name = "x"\n[pool]\nkind = []' + LOAD,
            f"file.toml, line 3: pool.kind = []: must be one of {', '.join(LIBRARIES)}",
        ),
        ('name = "x"\n[pool]\nmax_open = -1' + LOAD, "file.toml, line 3: pool.max_open = -1: must be 0 or more"),
        (
            'name = "x"\n[pool]\nmax_size = 5' + LOAD,
            "file.toml, line 3: pool.max_size = 5: there is no such key; did you mean max_uses?",
        ),
        (
            'name = "x"\n[pool]\nkind = "psycopg_pool"\nmax_size = 5' + LOAD,
            "file.toml, line 4: pool.max_size = 5: psycopg_pool's max_size is max_open here",
        ),
        ('name = "x"\n[leak]\nevery = -1' + LOAD, "file.toml, line 3: leak.every = -1: must be 0 or more"),
        (
            'name = "x"\n[leak]\nshape = "lost"' + LOAD,
            f'file.toml, line 3: leak.shape = "lost": must be one of {", ".join(LEAK_SHAPES)}',
        ),
        ('name = "x"\n[[events]]\nat = 1' + LOAD, "file.toml, line 2: events[0].do: is required"),
        ('name = "x"\n[[events]]\ndo = "restart"' + LOAD, "file.toml, line 2: events[0].at: is required"),
        (
            'name = "x"\n[[events]]\nat = 1\ndo = "reboot"' + LOAD,
            'file.toml, line 4: events[0].do = "reboot": must be one of restart, failover, pause, slow, deploy',
        ),
        (
            'name = "x"\n[[events]]\nat = 1\ndo = "pause"' + LOAD,
            "file.toml, line 2: events[0].for: is required for pause",
        ),
        (
            'name = "x"\n[[events]]\nat = 1\ndo = "pause"\nfor = 0' + LOAD,
            "file.toml, line 5: events[0].for = 0: must be more than 0",
        ),
        (
            'name = "x"\n[[events]]\nat = 1\ndo = "slow"\nfor = 5' + LOAD,
            "file.toml, line 2: events[0].factor: is required for slow",
        ),
        (
            'name = "x"\n[[events]]\nat = 1\ndo = "restart"\nfor = "5s"' + LOAD,
            'file.toml, line 5: events[0].for = "5s": means nothing for restart',
        ),
        (
            'name = "x"\n[[events]]\nat = 1\ndo = "pause"\nfor = 5\noverlap = "5s"' + LOAD,
            'file.toml, line 6: events[0].overlap = "5s": means nothing for pause',
        ),
    ],
)
def test_what_cannot_be_is_refused_with_key_value_rule_and_line(text: str, message: str) -> None:
    assert refusal(text).message == message


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("database/sql", "min_idle", 2),
        ("psycopg_pool", "max_idle", 2),
        ("psycopg2", "min_idle", 2),
        ("psycopg2", "max_lifetime", '"30m"'),
        ("psycopg2", "max_idle_time", '"30m"'),
        ("psycopg2", "acquire_timeout", '"1s"'),
        ("sqlalchemy", "min_idle", 2),
        ("sqlalchemy", "max_idle_time", '"30m"'),
        ("none", "max_open", 2),
        ("none", "max_idle", 2),
    ],
)
def test_a_setting_that_the_library_does_not_have_is_refused_with_those_it_has(
    kind: str, key: str, value: object
) -> None:
    error = refusal(f'name = "x"\n[pool]\nkind = "{kind}"\n{key} = {value}{LOAD}')

    assert error.message == f"file.toml, line 4: pool.{key} = {value}: {kind} has no such setting"
    for ours, native in LIBRARIES[kind].native.items():
        assert f"{ours} ({native})" in error.hint


def test_saying_that_a_limit_is_off_is_accepted_where_the_library_has_no_such_limit() -> None:
    pool = 'kind = "psycopg2"\nmax_lifetime = "off"\nmax_idle_time = "off"\nacquire_timeout = "off"\nmin_idle = 0'

    scenario = parse_scenario(tomllib.loads(f'name = "x"\n[pool]\n{pool}{LOAD}'))

    assert scenario.pool == LIBRARIES["psycopg2"].defaults


@pytest.mark.parametrize(
    ("pool", "key", "rule"),
    [
        ('kind = "psycopg_pool"\nmax_open = 0', "max_open", "has no unlimited pool"),
        ('kind = "psycopg2"\nmax_open = 0', "max_open", "has no unlimited pool"),
        ('kind = "psycopg_pool"\nmax_open = 2\nmin_idle = 3', "min_idle", "must not be above max_open"),
        ('kind = "psycopg2"\nmax_open = 2\nmax_idle = 3', "max_idle", "must not be above max_open"),
        ('kind = "sqlalchemy"\nmax_open = 2\nmax_idle = 3', "max_idle", "must not be above max_open"),
        ('kind = "sqlalchemy"\nmax_open = 2\nmax_idle = 0', "max_idle", "makes SQLAlchemy's pool unlimited"),
    ],
)
def test_a_combination_that_the_library_refuses_is_refused(pool: str, key: str, rule: str) -> None:
    error = refusal(f'name = "x"\n[pool]\n{pool}{LOAD}')

    assert f"pool.{key} = " in error.message
    assert rule in error.message


def test_psycopg_pools_scheduler_needs_an_idle_time_above_0() -> None:
    with pytest.raises(BadInput, match=r"pool\.max_idle_time = 0.*: its scheduler would never rest"):
        parse_scenario({"name": "t", "load": {"workers": 1}, "pool": {"kind": "psycopg_pool", "max_idle_time": 0}})


def test_a_burst_without_an_end_needs_a_duration() -> None:
    load = {"workers": 1, "requests": 5, "bursts": [{"at": "1s", "workers": 2}]}

    with pytest.raises(
        BadInput, match=r"load\.duration = \"off\": must be a duration, or a burst would go on for ever"
    ):
        parse_scenario({"name": "t", "load": load})


HUGE = 10**400
NUMBERS = {
    "database": ("max_connections", "reserved", "cores", "connect_cpu", "contention", "coherency"),
    "pool": ("max_open", "max_idle", "max_uses", "max_lifetime", "max_idle_time", "acquire_timeout"),
    "load": (
        *("instances", "workers", "rate", "think", "hold", "hold_outside", "connections_per_request", "requests"),
        *("duration", "warmup", "drain", "error_pause", "seed", "retries", "retry_backoff", "retry_growth"),
        "retry_jitter",
    ),
    "leak": ("every",),
    "events": ("at", "for", "factor", "overlap", "down"),
    "bursts": ("at", "until", "workers", "requests"),
}


@pytest.mark.parametrize(("section", "key"), [(section, key) for section, keys in NUMBERS.items() for key in keys])
@pytest.mark.parametrize("value", [str(HUGE), "1e300", "0x" + "f" * 5000, '"' + "9" * 400 + '"', "inf", "nan", "-1"])
def test_every_number_has_bounds_and_is_refused_with_its_key_and_line(section: str, key: str, value: str) -> None:
    header = {"events": "[[events]]", "bursts": "[[load.bursts]]"}.get(section, f"[{section}]")
    path = {"events": "events[0]", "bursts": "load.bursts[0]"}.get(section, section)
    load = "" if section == "load" else "[load]\nworkers = 1\n"
    error = refusal(f'name = "x"\n{load}{header}\n{key} = {value}\n')

    assert error.message.startswith(f"file.toml, line {3 if section == 'load' else 5}: {path}.{key} = ")
    assert len(error.message) < 250
    assert "\n" not in error.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[load]\nworkers = 100000000000", "file.toml, line 3: load.workers = 100000000000: must be 1,000,000 or less"),
        (
            "[load]\ninstances = 100000000000\nworkers = 1",
            "line 3: load.instances = 100000000000: must be 100,000 or less",
        ),
        (
            "[load]\ninstances = 5000\nworkers = 300",
            "file.toml, line 4: load.workers: these are 1,500,000 workers (or idle connections) of all instances and"
            " bursts, and 1,000,000 is the most",
        ),
        (
            "[load]\nworkers = 2000\nconnections_per_request = 600",
            "load.workers: these are 1,200,000 workers (or idle connections)",
        ),
        (
            '[load]\ninstances = 5\nworkers = 1\n[pool]\nkind = "psycopg_pool"\nmax_open = 250000\nmin_idle = 250000',
            "load.workers: these are 1,250,000 workers (or idle connections)",
        ),
        (
            "[load]\ninstances = 40000\nworkers = 1\n" + '[[events]]\nat = 1\ndo = "deploy"\n' * 2,
            "file.toml, line 3: load.instances: these are 120,000 instances of all services and of all generations of"
            " deploys, and 100,000 is the most",
        ),
        (
            "[load]\ninstances = 100\nrate = 20000",
            "file.toml, line 4: load.rate: these are 2,000,000 arrivals a second",
        ),
        (
            '[[service]]\nname = "a"\n[service.load]\ninstances = 60000\nworkers = 1\n'
            '[[service]]\nname = "b"\n[service.load]\ninstances = 60000\nworkers = 1',
            "file.toml, line 2: service: these are 120,000 instances of all services",
        ),
        (
            LOAD + "[database.pgpool]\nmax_pool = 0",
            "file.toml, line 6: database.pgpool.max_pool = 0: must be 1 or more",
        ),
        (
            LOAD + "[database.pgpool]\nmax_pool = -0.0",
            "file.toml, line 6: database.pgpool.max_pool = -0.0: must be 1 or more",
        ),
        (
            LOAD + "[database.pgbouncer]\ndefault_pool_size = 1e300",
            "database.pgbouncer.default_pool_size = 1e+300: must be between -1,000,000,000 and 1,000,000,000",
        ),
        (
            "[[evdnts]]\nat = 1" + LOAD,
            "file.toml, line 2: evdnts = [{'at': 1}]: there is no such key; did you mean events?",
        ),
        ('[pool]\nkind = "a\\nb"' + LOAD, r'file.toml, line 3: pool.kind = "a\nb": must be one of'),
    ],
)
def test_what_would_not_fit_into_memory_is_refused_before_anything_is_made(text: str, message: str) -> None:
    assert message in refusal('name = "x"\n' + text).message
