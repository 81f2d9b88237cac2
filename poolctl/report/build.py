"""The report of each kind of result, so that commands and files need not know the kinds."""

from poolctl.api.results import FleetResult, InspectResult, RecommendResult, SimulateResult
from poolctl.report.blocks import Report

Result = SimulateResult | InspectResult | RecommendResult | FleetResult


def build_report(result: Result, *, repeat: str = "") -> Report:
    """Return the report of ``result``. ``repeat``: the command that does a simulation again, "" to leave it out."""
    if isinstance(result, SimulateResult):
        return _simulation(result, repeat)
    if isinstance(result, InspectResult):
        from poolctl.report.inspection import inspection_report

        return inspection_report(result)
    if isinstance(result, RecommendResult):
        from poolctl.report.recommendation import recommendation_report

        return recommendation_report(result)
    from poolctl.report.fleet import fleet_report

    return fleet_report(result.check)


def _simulation(result: SimulateResult, repeat: str) -> Report:
    if result.batch is not None:
        from poolctl.report.batch import batch_report

        return batch_report(result.batch, repeat=repeat)
    from poolctl.report.comparison import both_report, comparison_report
    from poolctl.report.simulation import simulation_report

    if result.is_comparison:
        return comparison_report(result.variants, repeat=repeat)
    if result.engine == "both" and len(result.variants) > 1:
        return both_report(result.variants[0], result.variants[1], repeat=repeat)
    return simulation_report(result.variants[0].run, result.variants[0].findings, repeat=repeat)
