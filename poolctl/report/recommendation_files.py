"""Writes a recommendation, or the check of a fleet, into the file of ``--output``."""

from pathlib import Path

from poolctl.api.results import FleetResult, RecommendResult
from poolctl.report.files import write_text
from poolctl.sizing.fleet_check import FleetCheck

FORMATS = (".md", ".json")


def write_recommendation(path: Path, recommended: RecommendResult) -> None:
    """As the file's name asks. Raises CannotDo."""
    if path.suffix.lower() == ".json":
        write_text(path, recommended.to_json() + "\n")
    else:
        from poolctl.report.recommendation_markdown import recommendation_markdown

        write_text(path, recommendation_markdown(recommended))


def write_fleet(path: Path, check: FleetCheck) -> None:
    """As the file's name asks. Raises CannotDo."""
    if path.suffix.lower() == ".json":
        write_text(path, FleetResult(check).to_json() + "\n")
    else:
        from poolctl.report.fleet_markdown import fleet_markdown

        write_text(path, fleet_markdown(check))
