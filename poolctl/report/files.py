"""Writes a report into the file of ``--output``, in the format that its name asks for.

Decides which formats each kind of report has, and that a file is whole or not there; the contents come from the
format's own module. Imports those only to write: the command line reads the formats to print its help.
"""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from poolctl.errors import BadInput, CannotDo

if TYPE_CHECKING:
    from poolctl.report.blocks import Report
    from poolctl.report.build import Result

ReportKind = Literal[
    "run", "sweep", "large sweep", "replications", "inspection", "recommendation", "untried recommendation", "fleet"
]

_TEXTS = (".md", ".html", ".json")
FORMATS: dict[ReportKind, tuple[str, ...]] = {
    "run": (*_TEXTS, ".svg"),
    "sweep": (*_TEXTS, ".svg", ".csv"),
    "large sweep": (*_TEXTS, ".csv"),
    "replications": (*_TEXTS, ".csv"),
    "inspection": (*_TEXTS, ".svg"),
    "recommendation": (*_TEXTS, ".svg", ".csv"),
    "untried recommendation": _TEXTS,
    "fleet": (*_TEXTS, ".csv"),
}
"""The formats of each kind of report: .svg where it has a chart, .csv where it has a table that programs read. A
comparison is a run to its reader; a large sweep, of more than two keys, has no picture; and the chart and the table of
a recommendation are about the sizes that were tried."""

OUTPUT_HELP = {
    "simulate": "Also write the report as .md, .html, .json or .svg; a sweep or replications also as .csv.",
    "inspect": "Also write the report as .md, .html, .json or .svg.",
    "recommend": "Also write the report as .md, .html, .json, .svg or .csv (the last two: the sizes that were tried).",
}
"""What --output writes, for the help of each command."""


def check_output(path: Path, kind: ReportKind) -> None:
    """Refuse, before anything runs, a file whose format is unknown or whose folder is missing. Raises BadInput."""
    formats = FORMATS[kind]
    if path.suffix.lower() not in formats:
        known = f"{', '.join(formats[:-1])} or {formats[-1]}"
        raise BadInput(f"--output {path}: the name must end in {known}", hint=_elsewhere(path.suffix.lower(), kind))
    if not path.parent.is_dir():
        raise BadInput(f"--output {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise BadInput(f"--output {path}: is a folder")


def write_report(path: Path, result: "Result", *, repeat: str = "") -> None:
    """Write the report of ``result`` as the file's name asks. ``repeat``: the command that does the same again.

    A file that was there is replaced at once or, if writing fails (disk full), left as it was. Raises CannotDo.
    """
    from poolctl.report.build import build_report

    suffix = path.suffix.lower()
    if suffix == ".json":
        text = result.to_json() + "\n"
    elif suffix == ".csv":
        from poolctl.report.csv import write_csv

        text = write_csv(result)
    elif suffix == ".md":
        from poolctl.report.markdown import write_markdown

        text = write_markdown(build_report(result, repeat=repeat))
    elif suffix == ".html":
        from poolctl.report.html import write_page

        text = write_page(build_report(result, repeat=repeat), result.to_json())
    else:
        text = _draw_picture(build_report(result, repeat=repeat), result)
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Replace the file's contents, whole or not at all. Raises CannotDo."""
    # In the same folder: a rename is only atomic within one file system.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise CannotDo(f"cannot write {path}: {error.strerror}", hint="give another --output") from None


def _draw_picture(report: "Report", result: "Result") -> str:
    from poolctl.api.results import RecommendResult
    from poolctl.report.blocks import collect_charts, headline_of
    from poolctl.report.svg import write_svg

    charts = tuple(collect_charts(report))
    if not charts and isinstance(result, RecommendResult):
        hint = "add --verify, or write .md, .html or .json"
        raise CannotDo("fewer than two sizes were tried, so there is no chart", hint=hint)
    if not charts:
        raise CannotDo("there is too little data for a chart", hint="write .md, .html or .json instead")
    return write_svg(charts, subtitle=headline_of(report))


def _elsewhere(suffix: str, kind: ReportKind) -> str:
    """Return a hint for a format that poolctl writes of other reports, "" for a format that it does not know."""
    if kind == "untried recommendation" and suffix in (".svg", ".csv"):
        return f"{suffix} shows the sizes that were tried: leave --no-verify out"
    if suffix == ".svg":
        reason = {
            "large sweep": "a sweep of more than two keys has no picture",
            "replications": "replications have no picture",
            "fleet": "a fleet has no picture",
        }
        return reason.get(kind, "")
    return ".csv is for a sweep, replications, and recommend" if suffix == ".csv" else ""
