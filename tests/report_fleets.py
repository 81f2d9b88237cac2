"""Fleets to report on: the examples, one that fits and one that does not."""

from pathlib import Path

from poolctl.api.results import FleetResult
from poolctl.sizing.fleet import load_fleet
from poolctl.sizing.fleet_check import check_fleet

EXAMPLES = Path(__file__).parents[1] / "examples"


def within_budget() -> FleetResult:
    return FleetResult(check_fleet(load_fleet(EXAMPLES / "fleet.toml")))


def over_budget() -> FleetResult:
    return FleetResult(check_fleet(load_fleet(EXAMPLES / "fleet_over_budget.toml")))


ALL = (within_budget, over_budget)
