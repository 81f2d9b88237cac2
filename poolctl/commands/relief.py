"""Carries out a relief plan: asks once, ends one backend after the other, and looks what really came free."""

import sys
from typing import TYPE_CHECKING

import click

from poolctl.commands.interrupts import catch_interrupts
from poolctl.errors import BadInput, NoPrivilege

if TYPE_CHECKING:
    from poolctl.api.results import ReliefResult
    from poolctl.diagnose.live.relief import ReliefPlan
    from poolctl.observe.postgres import Postgres


def check_terminal() -> None:
    """Raise BadInput where nobody could answer the question."""
    if not sys.stdin.isatty() or not sys.stderr.isatty():
        raise BadInput(
            "--execute asks before it ends anything, and there is no terminal to ask on",
            hint="run it in a terminal, or paste the SQL that --relief prints",
        )


def relieve(plan: "ReliefPlan", postgres: "Postgres | None") -> "tuple[ReliefResult | None, bool]":
    """What came of it, and whether it was cut short; None when there was nothing to end, or the answer was no.

    Each backend's identity is looked at again just before it is ended. Raises NoPrivilege.
    """
    from poolctl.api.results import ReliefResult
    from poolctl.report.inspection import NOT_ALLOWED

    if not plan.steps or postgres is None:
        return None, False
    if not plan.may_signal:
        raise NoPrivilege(NOT_ALLOWED, hint="--relief prints SQL that another role can run")
    if not click.confirm(f"End {len(plan.steps)} backends now? What they have not committed is undone", err=True):
        click.echo("nothing was ended", err=True)
        return None, False
    before = _used(postgres)
    endings = []
    with catch_interrupts() as interrupts:
        for step in plan.steps:
            if interrupts():
                break
            endings.append(postgres.end_backend(step.pid, step.started_at))
    return ReliefResult(tuple(endings), before, _used(postgres)), interrupts.asked


def _used(postgres: "Postgres") -> int | None:
    sample = postgres.sample()
    return None if sample is None else len(sample.clients)
