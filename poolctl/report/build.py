"""The report of each kind of result, so that commands and files need not know the kinds."""

from poolctl.api.results import FleetResult, InspectResult, RecommendResult, SimulateResult
from poolctl.report.blocks import Report

Result = SimulateResult | InspectResult | RecommendResult | FleetResult


def build_report(result: Result, *, repeat: str = "") -> Report:
    """Return the report of ``result``. ``repeat``: the command that does a simulation again, "" to leave it out."""
    if isinstance(result, SimulateResult):
        return _simulation(result, repeat)
    if isinstance(result, InspectResult):
        from poolctl.report.inspection import build_inspection_report

        return build_inspection_report(result)
    if isinstance(result, RecommendResult):
        from poolctl.report.recommendation import build_recommendation_report

        return build_recommendation_report(result)
    from poolctl.report.fleet import build_fleet_report

    return build_fleet_report(result.check)


def _simulation(result: SimulateResult, repeat: str) -> Report:
    if result.batch is not None:
        from poolctl.report.batch import build_batch_report

        return build_batch_report(result.batch, repeat=repeat)
    from poolctl.report.comparison import build_both_report, build_comparison_report
    from poolctl.report.simulation import build_simulation_report

    if result.is_comparison:
        return build_comparison_report(result.variants, repeat=repeat)
    if result.engine == "both" and len(result.variants) > 1:
        return build_both_report(result.variants[0], result.variants[1], repeat=repeat)
    return build_simulation_report(result.variants[0].run, result.variants[0].findings, repeat=repeat)
