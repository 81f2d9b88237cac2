"""Puts a recommendation together: what was measured under what was given, swept, sized, tried, and written out.

Decides that what is given wins over what is measured, and what is tried without being asked for.
"""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from poolctl.commands.recommendation import Asked

if TYPE_CHECKING:
    from poolctl.report.recommended import Recommended
    from poolctl.sizing.figures import Figures


def sized(asked: Asked, *, color: str, quiet: bool, words: Sequence[str]) -> "Recommended":
    """The answer to the command line ``words``. Raises PoolctlError."""
    from poolctl.report.recommended import Recommended
    from poolctl.sizing.defaults import filled
    from poolctl.sizing.recommend import recommend
    from poolctl.stacks.advice import configs_of

    figures = asked.figures
    answer = recommend(figures, seed=asked.seed)
    figures, _ = filled(figures)
    configs, note = configs_of(answer, figures, asked.stacks)
    return Recommended(
        answer=answer,
        figures=figures,
        configs=configs,
        notes=tuple(filter(None, [note])),
        seed=asked.seed,
        repeat=repeat_command(words),
    )


def over(measured: "Figures", given: "Figures") -> "Figures":
    """``measured``, with everything that was given in its place."""
    blank = type(given)()
    changes = {
        name: value for name in given.__dataclass_fields__ if (value := getattr(given, name)) != getattr(blank, name)
    }
    if "surge" in changes or "surge_share" in changes:
        changes = {"surge": None, "surge_share": None} | changes
    return replace(measured, **changes)


def repeat_command(words: Sequence[str]) -> str:
    """The command that does the same again, without a password."""
    from poolctl.literals import hide_secrets

    return shlex.join(["poolctl", *map(hide_secrets, words)])
