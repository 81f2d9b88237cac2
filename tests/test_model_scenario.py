"""What a scenario file can ask of the model alone."""

from typing import Any

import pytest

from poolctl.errors import BadInput
from poolctl.scenario.scenario import Scenario, parse_scenario
from poolctl.scenario.sweep import make_grid, parse_axes
from poolctl.scenario.toml import TomlSource

SERVICES: dict[str, Any] = {
    "name": "two",
    "load": {"duration": "20s", "seed": 7},
    "service": [
        {"name": "api", "pool": {"kind": "pgxpool", "max_open": 8}, "load": {"rate": 50.0}},
        {"name": "jobs", "pool": {"kind": "sqlalchemy"}, "load": {"workers": 4}, "leak": {"every": 10}},
    ],
}


def refusal(values: dict[str, object]) -> str:
    with pytest.raises(BadInput) as refused:
        parse_scenario(values)
    return refused.value.message


def test_services_share_the_duration_and_seed_of_the_run_and_read_back_as_they_were() -> None:
    scenario = parse_scenario(SERVICES)

    assert [(part.name, part.load.duration, part.load.seed) for part in scenario.all_services] == [
        ("api", 20.0, 7),
        ("jobs", 20.0, 7),
    ]
    assert scenario.model_only == ("service",)
    assert parse_scenario(scenario.to_dict()) == scenario


def test_a_service_cannot_have_a_duration_of_its_own_and_needs_a_name() -> None:
    own: dict[str, object] = {"name": "x", "service": [{"name": "api", "load": {"workers": 1, "duration": "5s"}}]}

    assert "service[0].load.duration" in refusal(own)
    assert "service[0].name" in refusal({"name": "x", "service": [{"load": {"workers": 1}}]})


def test_the_time_outside_the_database_is_a_part_of_the_hold() -> None:
    load = {"workers": 1, "hold": "10ms", "hold_outside": "20ms"}

    assert "load.hold_outside = 0.02: is a part of hold (0.01 s)" in refusal({"name": "x", "load": load})


def test_what_only_the_model_can_do_is_named_by_its_keys() -> None:
    def parsed(**load: object) -> Scenario:
        events = [{"at": 1, "do": "failover", "down": "5s"}]
        return parse_scenario({"name": "x", "events": events, "load": {"workers": 1, **load}})

    assert parsed(retries=2, hold_outside="5ms").model_only == ("load.hold_outside", "load.retries", "events.down")


def test_a_pool_at_the_top_is_refused_where_services_have_their_own() -> None:
    with pytest.raises(BadInput, match=r"pool\.max_open = 5: belongs to a service here") as refused:
        parse_scenario(SERVICES | {"pool": {"max_open": 5}})

    assert refused.value.hint == "write it in its [[service]], or service.api.pool.max_open"


def test_a_sweep_reaches_into_a_service() -> None:
    axes = parse_axes(["service.jobs.load.workers=2,4"])

    cells, _ = make_grid(SERVICES, axes, TomlSource("two.toml"))

    assert [cell.scenario.services[1].load.workers for cell in cells] == [2, 4]
    assert [cell.scenario.services[0].pool.max_open for cell in cells] == [8, 8]
    with pytest.raises(BadInput, match=r"--sweep service\[1\]\.load\.wokers = 2: there is no such key"):
        make_grid(SERVICES, parse_axes(["service.jobs.load.wokers=2"]), TomlSource("two.toml"))
