"""Writes a report into the file of ``--output``, in the format that its name asks for.

Decides the formats and that a file is whole or not there; the contents come from the format's own module.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from poolctl.api.results import Batch, InspectResult, SimulateResult, Variant
from poolctl.errors import BadInput, CannotDo

FORMATS = (".json", ".svg", ".html")
BATCH_FORMATS = (".json", ".csv")
"""Of a sweep and of replications."""
INSPECT_FORMATS = (".md", ".html", ".json", ".svg")


def check_output(path: Path, formats: Sequence[str] = FORMATS) -> None:
    """Refuse, before anything runs, a file whose format is unknown or whose folder is missing. Raises BadInput."""
    if path.suffix.lower() not in formats:
        known = f"{', '.join(formats[:-1])} or {formats[-1]}"
        raise BadInput(f"--output {path}: the name must end in {known}", hint=_elsewhere(path, formats))
    if not path.parent.is_dir():
        raise BadInput(f"--output {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise BadInput(f"--output {path}: is a folder")


def write_output(path: Path, variants: Sequence[Variant], *, compared: bool = False, repeat: str = "") -> None:
    """Write one run (``variants`` of length one), or a comparison, as the file's name asks.

    A file that was there is replaced at once or, when writing fails (disk full), left as it was. Raises CannotDo.
    """
    write_text(path, _render(path.suffix.lower(), variants, compared, repeat))


def write_both(path: Path, variants: Sequence[Variant], *, repeat: str = "") -> None:
    """Write a live run and the model's of the same scenario, which may be missing. Raises CannotDo."""
    from dataclasses import replace

    if path.suffix.lower() == ".json":
        write_text(path, SimulateResult("both", tuple(variants)).to_json() + "\n")
    else:
        named = [replace(variant, name=variant.run.engine) for variant in variants]
        write_output(path, named, compared=True, repeat=repeat)


def write_batch(path: Path, batch: Batch) -> None:
    """Write a sweep or replications as the file's name asks. Raises CannotDo."""
    from poolctl.report import csv

    if path.suffix.lower() == ".csv":
        write_text(path, csv.csv_of(batch))
    else:
        write_text(path, batch.to_json() + "\n")


def write_inspection(path: Path, inspection: InspectResult) -> None:
    """Write what ``inspect`` saw as the file's name asks. Raises CannotDo."""
    suffix = path.suffix.lower()
    if suffix == ".md":
        from poolctl.report.markdown import markdown_of

        write_text(path, markdown_of(inspection))
    elif suffix == ".json":
        write_text(path, inspection.to_json() + "\n")
    elif suffix == ".html":
        from poolctl.report.inspection_html import inspection_page

        write_text(path, inspection_page(inspection))
    else:
        write_text(path, _inspection_picture(inspection))


def write_text(path: Path, text: str) -> None:
    """Replace the file's contents, whole or not at all. Raises CannotDo."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise CannotDo(f"cannot write {path}: {error.strerror}", hint="give another --output") from None


def _elsewhere(path: Path, formats: Sequence[str]) -> str:
    """A hint for a format that poolctl does write, only not of this."""
    suffix = path.suffix.lower()
    if suffix in FORMATS and formats == BATCH_FORMATS:
        return "a sweep and replications have no picture"
    return {".csv": ".csv is for --sweep", ".md": ".md is for inspect"}.get(suffix, "")


def _inspection_picture(inspection: InspectResult) -> str:
    from poolctl.report import svg
    from poolctl.report.inspection_chart import chart_of_observation
    from poolctl.report.inspection_words import inspection_verdict

    chart = chart_of_observation(inspection.observation)
    if chart is None:
        raise CannotDo("too little was seen for a chart", hint="look for longer, or write .md, .html or .json")
    verdict = inspection_verdict(inspection)
    return svg.svg_of(chart, subtitle=f"{verdict.word}: {verdict.sentence}")


def _render(suffix: str, variants: Sequence[Variant], compared: bool, repeat: str) -> str:
    from poolctl.report import html, svg
    from poolctl.report.panels import chart_of, comparison_chart_of
    from poolctl.report.rows import headline
    from poolctl.report.verdict import verdict_of

    first = variants[0]
    if suffix == ".json":
        return SimulateResult("live", tuple(variants), is_comparison=compared).to_json() + "\n"
    if suffix == ".html":
        if compared:
            return html.comparison_page_of(variants, repeat=repeat)
        return html.page_of(first.run, first.findings, repeat=repeat)
    verdict = verdict_of(first.run, first.findings)
    chart = comparison_chart_of(variants) if compared else chart_of(first.run)
    if chart is None:
        raise CannotDo("the run was too short for a chart", hint="write .json or .html instead")
    return svg.svg_of(chart, subtitle=headline(variants) if compared else f"{verdict.word}: {verdict.sentence}")
