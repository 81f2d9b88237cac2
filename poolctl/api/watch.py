"""The live view of ``inspect --watch``: sampled and diagnosed for as long as a reader wants.

Decides when the state is diagnosed again. What is kept of a long view is the follower's decision.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from poolctl.api.answers import check_answered, has_answered
from poolctl.api.progress import Interruption, Progress
from poolctl.api.requests import InspectRequest
from poolctl.api.results import InspectResult
from poolctl.errors import Interrupted

if TYPE_CHECKING:
    from poolctl.observe.sampler import Sampler
    from poolctl.observe.snapshot import Snapshot

REST_SHARE = 4
"""A live view diagnoses again after so many times what the last diagnosis took, so that sampling keeps its pace."""

RAW_KEPT = 2
"""Snapshots that the sampler keeps of a view: what the diagnosis needs, the follower keeps."""


def watch(
    request: InspectRequest,
    sampler: "Sampler",
    keep: "Callable[[Snapshot], None]",
    interruption: Interruption,
    progress: Progress,
) -> InspectResult:
    """Show live systems until the reader or ``interruption`` ends it; return the last state.

    ``keep`` gets every snapshot. Raises CannotConnect if no source answers, Interrupted before the first sample.
    """
    from poolctl.diagnose.live.follow import Follower
    from poolctl.observe.recording import LiteralHider

    follower, hider = Follower(), LiteralHider()
    due, is_answered = 0.0, False

    def diagnose() -> InspectResult:
        observation, diagnosis = follower.diagnose(sampler.observation)
        return InspectResult(observation, diagnosis, request.planned, forgotten=follower.forgotten)

    with progress.show_watch() as view:

        def receive(snapshot: "Snapshot") -> None:
            nonlocal due, is_answered
            keep(snapshot)
            follower.add(snapshot if request.show_literals else hider.hide(snapshot))
            is_answered = is_answered or has_answered(sampler.observation)
            began = time.monotonic()
            if began >= due and is_answered:
                view.show(diagnose())
                due = time.monotonic() + (time.monotonic() - began) * REST_SHARE

        def is_over() -> bool:
            if interruption() or view.wants_to_end():
                return True
            return bool(follower.snapshots) and not is_answered and not sampler.awaits_server

        sampler.observe(request.duration, stop=is_over, on_snapshot=receive, keep=RAW_KEPT)
    interrupted = interruption.end()
    if interrupted and not follower.snapshots:
        raise Interrupted("interrupted before the first sample")
    if not is_answered:
        check_answered(sampler.observation, is_named=request.is_named)
    result = diagnose()
    return replace(result, interrupted=interrupted)
