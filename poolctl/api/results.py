"""The results of ``simulate()``, ``inspect()`` and ``recommend()``, as frozen data.

Decides which document each result is as JSON. Leaves the parts of a document to ``documents``, and words, tables and
charts to ``report``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from poolctl.api.documents import (
    Document,
    drop_made_pids,
    dumps,
    head_document,
    hide_passwords,
    observed_document,
    record_document,
    run_document,
    server_document,
    summary_document,
    to_json_value,
)
from poolctl.diagnose.finding import Finding, worst_first
from poolctl.errors import CannotDo
from poolctl.scenario.run import Run, Summary
from poolctl.scenario.scenario import Scenario
from poolctl.scenario.sweep import Axis

if TYPE_CHECKING:
    from poolctl.diagnose.finding import Diagnosis
    from poolctl.diagnose.live.relief import ReliefPlan
    from poolctl.observe.snapshot import Observation, Source
    from poolctl.observe.terminate import TerminationResult
    from poolctl.scenario.replications import Estimate
    from poolctl.sizing.figures import Figures
    from poolctl.sizing.fleet_check import FleetCheck
    from poolctl.sizing.recommendation import Recommendation, Sizes
    from poolctl.sizing.verify import Verification
    from poolctl.stacks import Config

Engine = Literal["live", "model", "both"]

SOURCE_NAMES = {
    "postgres": "PostgreSQL",
    "pgbouncer": "PgBouncer",
    "pgpool": "Pgpool-II",
    "host": "this host",
    "pool-stats": "pool figures",
    "evidence": "evidence",
    "prometheus": "Prometheus",
}
"""What people call each kind of source."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A run under the name that it is compared by; ``findings`` come worst first."""

    name: str
    run: Run
    findings: Sequence[Finding] = ()


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What is kept of one of many runs: its numbers and findings, not its timeline.

    ``failure`` and ``kernel`` are those of the Run.
    """

    summary: Summary
    findings: tuple[Finding, ...]
    failure: str | None = None
    kernel: str = ""

    @property
    def verdict(self) -> str:
        """The word and code of the worst finding: "CRITICAL leak", "OK"; "NO VERDICT" if health is undetermined."""
        if not self.findings:
            return "NO VERDICT"
        worst = worst_first(self.findings)[0]
        if worst.code == "healthy" and worst.confidence == "undetermined":
            return "NO VERDICT"
        return "OK" if worst.code == "healthy" else f"{worst.severity.upper()} {worst.code}"


@dataclass(frozen=True, slots=True)
class Point:
    """One of many runs: the word of each axis (none in replications), its seed, and its outcome."""

    words: tuple[str, ...]
    seed: int
    outcome: RunOutcome

    def to_dict(self) -> Document:
        """Make the part of the document about this run."""
        return {
            "seed": self.seed,
            "summary": summary_document(self.outcome.summary),
            "reopened_rate": to_json_value(reopened_rate(self.outcome.summary)),
            "failure": to_json_value(self.outcome.failure),
            "findings": [record_document(finding) for finding in self.outcome.findings],
        }


@dataclass(frozen=True, slots=True)
class Batch:
    """The runs of a sweep (``axes``) or of replications (no axes), in order.

    ``planned``: how many runs were requested. There are fewer ``points`` if the batch was interrupted, or if processes
    were lost (``losses``: how). ``scenario`` is that of the first run; the others differ in their words or their seed.
    """

    scenario: Scenario
    points: tuple[Point, ...]
    planned: int
    axes: tuple[Axis, ...] = ()
    interrupted: bool = False
    losses: tuple[str, ...] = ()

    @property
    def kernels(self) -> list[str]:
        """The kernels that made the runs, where that is known."""
        return sorted({point.outcome.kernel for point in self.points} - {""})

    @property
    def summaries(self) -> list[Summary]:
        return [point.outcome.summary for point in self.points]

    def to_dict(self) -> Document:
        """Make the document of ``simulate --sweep --json`` or ``simulate --replications --json``."""
        lost = None
        if self.losses:
            runs = "1 run was" if len(self.losses) == 1 else f"{len(self.losses)} runs were"
            lost = CannotDo(f"{runs} lost: {self.losses[0]}")
        return {
            **head_document("simulate", interrupted=self.interrupted, error=lost),
            "engine": "model",
            "kernels": self.kernels,
            "scenario": hide_passwords(to_json_value(self.scenario.to_dict())),
            "seed": self.scenario.load.seed,
            "planned": self.planned,
            **(self._sweep_keys() if self.axes else self._replication_keys()),
        }

    def to_json(self) -> str:
        """Write the document as text."""
        return dumps(self.to_dict())

    def _sweep_keys(self) -> Document:
        """Make the keys with their values, and one point for each run."""
        axes = [(axis.key, dict(zip(axis.words, axis.values, strict=True))) for axis in self.axes]
        return {
            "sweep": [{"key": axis.key, "values": to_json_value(axis.values)} for axis in self.axes],
            "points": [
                {
                    "values": {
                        key: to_json_value(known[word]) for (key, known), word in zip(axes, point.words, strict=True)
                    },
                    **point.to_dict(),
                }
                for point in self.points
            ],
        }

    def _replication_keys(self) -> Document:
        """Make ``mean`` and ``interval`` (95 %) in the shape of the summary, and the replications.

        A number that not every replication has is null; one replication alone has no interval.
        """
        from poolctl.scenario.replications import estimate_all

        replications = [point.to_dict() for point in self.points]
        found = estimate_all([point["summary"] for point in replications]) if replications else {}
        return {
            "seeds": [point.seed for point in self.points],
            "replications": [point["summary"] for point in replications],
            "mean": _estimates_document(found, lambda value: to_json_value(value.mean)),
            "interval": _estimates_document(
                found, lambda value: None if value.low is None else to_json_value([value.low, value.high])
            ),
            "reopened_rates": [point["reopened_rate"] for point in replications],
            "failures": [point["failure"] for point in replications],
            "findings": [point["findings"] for point in replications],
        }


@dataclass(frozen=True, slots=True)
class SimulateResult:
    """The runs of ``simulate()``.

    ``variants``: the runs in the order requested; with engine "both" the live run, then the model's, which is missing
    if the live run ended too early. ``batch``: the runs of a sweep or of replications, else None; ``variants`` is then
    empty. ``is_comparison``: ``compare`` was requested, so the document holds a list of runs.
    """

    engine: Engine
    variants: tuple[Variant, ...] = ()
    batch: Batch | None = None
    is_comparison: bool = False
    interrupted: bool = False

    @property
    def run(self) -> Run:
        """The first run. Raises ValueError for a sweep and for replications, which keep no runs."""
        if not self.variants:
            raise ValueError("a sweep or replications keep no single run: see batch")
        return self.variants[0].run

    @property
    def seed(self) -> int:
        """The seed of the first run."""
        return (self.run.scenario if self.batch is None else self.batch.scenario).load.seed

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings of all runs, those of the first run first."""
        if self.batch is not None:
            return tuple(finding for point in self.batch.points for finding in point.outcome.findings)
        return tuple(finding for variant in self.variants for finding in variant.findings)

    @property
    def failure(self) -> str | None:
        """Why the first incomplete run is incomplete, None if all are complete."""
        if self.batch is not None:
            lost, planned = self.batch.losses, self.batch.planned
            return f"{len(lost)} of {planned} runs were lost: {lost[0]}" if lost else None
        return next((variant.run.failure for variant in self.variants if variant.run.failure), None)

    def to_dict(self) -> Document:
        """Make the document that ``simulate --json`` prints."""
        if self.batch is not None:
            return self.batch.to_dict()
        runs = [variant.run for variant in self.variants]
        failure = next((run.failure for run in runs if run.failure), None)
        document = head_document(
            "simulate",
            interrupted=any(run.interrupted for run in runs),
            error=CannotDo(failure) if failure else None,
        )
        if self.is_comparison:
            named = [
                {"name": to_json_value(variant.name)} | run_document(variant.run, variant.findings)
                for variant in self.variants
            ]
            return document | {"runs": named}
        first = run_document(runs[0], self.variants[0].findings)
        return document | (first if self.engine != "both" else {"live": first} | self._model_keys())

    def to_json(self) -> str:
        """Write the document as text: exactly what ``simulate --json`` prints."""
        return dumps(self.to_dict())

    def _model_keys(self) -> Document:
        if len(self.variants) < 2:
            return {"model": None, "difference": None, "trust": None}
        from poolctl.api.model_trust import compare_summaries, judge_model

        live, model = self.variants[0].run, self.variants[1].run
        found: Document = {}
        for each in compare_summaries(live.summary, model.summary):
            table = found
            for key in each.path[:-1]:
                table = table.setdefault(key, {})
            table[each.path[-1]] = {
                "live": to_json_value(each.live),
                "model": to_json_value(each.model),
                "absolute": to_json_value(each.absolute),
                "relative": to_json_value(each.relative),
            }
        level, sentence = judge_model(live, model)
        return {
            "model": run_document(model, self.variants[1].findings),
            "difference": found,
            "trust": {"level": level, "sentence": to_json_value(sentence)},
        }


@dataclass(frozen=True, slots=True)
class ReliefResult:
    """The outcome of a relief plan that was carried out.

    ``used_before`` and ``used_after`` count client backends; None: not known.
    """

    endings: "tuple[TerminationResult, ...]"
    used_before: int | None = None
    used_after: int | None = None

    @property
    def freed(self) -> int | None:
        """Slots that really became free; below 0 if other clients took more than that."""
        if self.used_before is None or self.used_after is None:
            return None
        return self.used_before - self.used_after


@dataclass(frozen=True, slots=True)
class InspectResult:
    """What ``inspect()`` observed, and what it means.

    ``planned``: seconds of sampling that were planned, None for a replay and a live view. ``replayed``: the file that
    was read, "" for live systems. ``relief`` None: no plan was requested; ``relieved`` None: no plan was carried out.
    """

    observation: "Observation"
    diagnosis: "Diagnosis"
    planned: float | None = None
    interrupted: bool = False
    replayed: str = ""
    relief: "ReliefPlan | None" = None
    relieved: ReliefResult | None = None
    forgotten: int = 0
    """How many older samples a live view forgot: the result is about the ones that it kept."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings, worst first."""
        return self.diagnosis.findings

    def to_dict(self) -> Document:
        """Make the document that ``inspect --json`` prints."""
        diagnosis = self.diagnosis
        return {
            **head_document("inspect", interrupted=self.interrupted),
            "observed": observed_document(self.observation, self.forgotten),
            "server": server_document(self.observation, diagnosis.limits),
            "limits": [to_json_value(asdict(limit)) for limit in diagnosis.limits],
            "groups": [drop_made_pids(to_json_value(asdict(group))) for group in diagnosis.groups],
            "concurrency": to_json_value(asdict(diagnosis.concurrency)) if diagnosis.concurrency else None,
            "findings": [drop_made_pids(to_json_value(asdict(finding))) for finding in diagnosis.findings],
            "unseen": to_json_value(diagnosis.unseen),
            "relief": self._relief_document(),
        }

    def to_json(self) -> str:
        """Write the document as text: exactly what ``inspect --json`` prints."""
        return dumps(self.to_dict())

    def _relief_document(self) -> Document | None:
        plan, relieved = self.relief, self.relieved
        if plan is None:
            return None
        return {
            **drop_made_pids(to_json_value(asdict(plan))),
            "frees": plan.frees,
            "executed": to_json_value([asdict(ending) for ending in relieved.endings]) if relieved else None,
            "used_before": relieved.used_before if relieved else None,
            "used_after": relieved.used_after if relieved else None,
            "freed": relieved.freed if relieved else None,
        }


@dataclass(frozen=True, slots=True)
class RecommendResult:
    """The recommendation, the figures that it stands on, how it was tried, and its configuration.

    ``figures``: with their defaults filled in. ``application``: whose connections were measured, None: all clients'.
    ``notes``: how it was measured, and what could not be measured; a sentence each. ``unverified``: why
    ``verification`` is None. ``planned``: seconds of sampling that were planned, None if nothing was measured.
    ``repeat``: the command that does the same again, "" outside of the command line.
    """

    recommendation: "Recommendation"
    figures: "Figures"
    configs: "tuple[Config, ...]" = ()
    verification: "Verification | None" = None
    unverified: str = ""
    notes: tuple[str, ...] = ()
    sources: "tuple[Source, ...]" = ()
    application: str | None = None
    planned: float | None = None
    interrupted: bool = False
    seed: int = 1
    repeat: str = ""

    @property
    def sizes(self) -> "Sizes":
        """What to set each process's pool to; ``max_open`` None: refused."""
        return self.recommendation.recommendation

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings, worst first."""
        return self.recommendation.findings

    def to_dict(self) -> Document:
        """Make the document that ``recommend --json`` prints."""
        document = head_document("recommend", interrupted=self.interrupted)
        document |= {key: to_json_value(value) for key, value in self.recommendation.to_dict().items()}
        document["config"] = [to_json_value(asdict(config)) for config in self.configs]
        document["verification"] = None if self.verification is None else to_json_value(self.verification.to_dict())
        # What was decided comes before the findings, which explain it.
        document["findings"] = document.pop("findings")
        return document | {
            "unverified": to_json_value(self.unverified),
            "application": to_json_value(self.application),
            "sources": [to_json_value(asdict(source)) for source in self.sources],
            "notes": to_json_value(self.notes),
            "seed": self.seed,
            "repeat": to_json_value(self.repeat),
        }

    def to_json(self) -> str:
        """Write the document as text: exactly what ``recommend --json`` prints."""
        return dumps(self.to_dict())


@dataclass(frozen=True, slots=True)
class FleetResult:
    """Whether all services of a fleet file fit the limits of their server."""

    check: "FleetCheck"

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings, worst first."""
        return self.check.findings

    def to_dict(self) -> Document:
        """Make the document that ``recommend --fleet --json`` prints.

        ``limits``: tightest first, null is unlimited. ``changes`` null: no size of the pools is small enough.
        """
        check = self.check
        return {
            **head_document("recommend"),
            "fleet": to_json_value(asdict(check.fleet)),
            "budget": {"arithmetic": [to_json_value(asdict(term)) for term in check.arithmetic]},
            "limits": [
                to_json_value(asdict(limit)) | {"kept": limit.is_kept, "refuses": limit.is_refusing}
                for limit in check.limits
            ],
            "within": check.is_within,
            "changes": None if check.changes is None else [to_json_value(asdict(change)) for change in check.changes],
            "findings": [to_json_value(asdict(finding)) for finding in check.findings],
        }

    def to_json(self) -> str:
        """Write the document as text: exactly what ``recommend --fleet --json`` prints."""
        return dumps(self.to_dict())


def reopened_rate(summary: Summary) -> float:
    """Calculate the connections per second that were opened again: (opened - peak_open) / duration, never below 0.

    A pool that keeps what it has opens no more than its peak. Connections closed for their lifetime count too.
    """
    again = summary.connections.opened - summary.connections.peak_open
    return max(again, 0) / summary.duration if summary.duration > 0 else 0.0


def _estimates_document(found: Mapping[str, Any], show: "Callable[[Estimate], Any]") -> Document:
    return {
        key: _estimates_document(value, show) if isinstance(value, Mapping) else None if value is None else show(value)
        for key, value in found.items()
    }
