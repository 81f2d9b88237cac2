"""Puts a recommendation together: what was measured under what was given, swept, sized, tried, and written out.

Decides that what is given wins over what is measured, and that what was found wrong wins over both.
"""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from poolctl.commands.recommendation import RecommendRequest

if TYPE_CHECKING:
    from poolctl.api.results import RecommendResult
    from poolctl.commands.measuring import Measurement
    from poolctl.commands.sweeping import Swept
    from poolctl.sizing.figures import Figures


def sized(asked: RecommendRequest, *, color: str, quiet: bool, words: Sequence[str]) -> "RecommendResult":
    """The answer to the command line ``words``. Raises PoolctlError."""
    from poolctl.api.results import RecommendResult
    from poolctl.sizing.defaults import fill_defaults
    from poolctl.sizing.recommend import add_diagnosis, drop_moot_findings, recommend, reject_unverified
    from poolctl.stacks.advice import write_configs

    seen = _measured(asked, color, quiet)
    swept = _swept(asked, color, quiet)
    figures = asked.figures if seen is None else over(seen.figures, asked.figures)
    figures = _without_false_alarm(figures)
    if swept is not None:
        figures = figures.with_(sweep=swept.points)
    answer = recommend(figures, seed=asked.seed)
    figures, _ = fill_defaults(figures)
    if seen is not None:
        answer = add_diagnosis(answer, figures, seen.refusing, seen.findings)
    verification, unverified = None, ""
    if not (seen is not None and seen.interrupted):
        from poolctl.commands.verifying import verified

        verification, unverified = verified(asked, answer, figures, color=color, quiet=quiet)
    if verification is not None and not verification.passed:
        answer = reject_unverified(answer, verification)
    answer = drop_moot_findings(answer)
    configs, note = write_configs(answer, figures, asked.stacks)
    return RecommendResult(
        recommendation=answer,
        figures=figures,
        configs=configs,
        verification=verification,
        unverified=unverified,
        notes=(
            *(seen.notes if seen is not None else ()),
            *(swept.notes if swept is not None else ()),
            *filter(None, [note]),
        ),
        sources=seen.sources if seen is not None else (),
        application=seen.application if seen is not None else None,
        planned=seen.planned if seen is not None else None,
        interrupted=(seen is not None and seen.interrupted) or (swept is not None and swept.interrupted),
        seed=asked.seed,
        repeat=repeat_command(words),
    )


def over(measured: "Figures", given: "Figures") -> "Figures":
    """``measured``, with everything that was given in its place.

    What was given of the load stands for all of it: windows and samples say nothing of another load.
    """
    blank = type(given)()
    names = [name for name in given.__dataclass_fields__ if getattr(given, name) != getattr(blank, name)]
    changes = {name: getattr(given, name) for name in names}
    if "surge" in changes or "surge_share" in changes:
        changes = {"surge": None, "surge_share": None} | changes
    if given.throughput is not None:
        changes |= {"windows": (), "parallelism": None, "parallelism_counted": None}
    return replace(measured, **changes)


def repeat_command(words: Sequence[str]) -> str:
    """The command that does the same again, without a password."""
    from poolctl.safe_text import hide_secrets

    return shlex.join(["poolctl", *map(hide_secrets, words)])


def _measured(asked: RecommendRequest, color: str, quiet: bool) -> "Measurement | None":
    if not asked.is_measuring:
        return None
    from poolctl.commands.measuring import measured

    return measured(asked, color=color, quiet=quiet)


def _swept(asked: RecommendRequest, color: str, quiet: bool) -> "Swept | None":
    if asked.sweep is None:
        return None
    from poolctl.commands.sweeping import swept

    return swept(asked, color=color, quiet=quiet)


def _without_false_alarm(figures: "Figures") -> "Figures":
    """A pool as large as its workers can fill is full whenever they are all busy, and asks for no more."""
    workers, now = figures.workers, figures.current_max_open
    each = figures.connections_per_request.count if figures.connections_per_request is not None else 1
    if workers is None or now is None or now.value < workers.value * each:
        return figures
    return figures.with_(censored_share=None)
