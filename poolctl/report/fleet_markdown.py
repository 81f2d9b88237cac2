"""A fleet's check as Markdown, for the pull request that changes a manifest."""

from poolctl.diagnose.finding import worst_first
from poolctl.report.fleet import tables_of
from poolctl.report.markdown import escaped
from poolctl.report.recommendation_markdown import table_lines
from poolctl.report.verdict import SENTENCE_LIMIT, word_of
from poolctl.safe_text import neutralize
from poolctl.sizing.fleet_check import FleetCheck


def fleet_markdown(check: FleetCheck) -> str:
    """The report in the order of the terminal's."""
    lines: list[str] = []
    for finding in worst_first(check.findings):
        lines += ["", f"**{word_of(finding)}** {escaped(neutralize(finding.summary, SENTENCE_LIMIT))}", ""]
        lines += [f"- {escaped(step)}" for step in neutralize(finding.remedy, SENTENCE_LIMIT).split("; ") if step]
    for table in tables_of(check):
        lines += table_lines(table)
    return "\n".join(lines).strip() + "\n"
