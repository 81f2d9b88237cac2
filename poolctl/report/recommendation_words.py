"""A recommendation in sentences, for every way of showing it. Pure: no layout, no color.

Decides the one sentence that stands first, and how what binds, what is sure and what is only assumed are said. Every
foreign name in it is neutralized here.
"""

from collections.abc import Iterator

from poolctl.api.results import RecommendResult
from poolctl.diagnose.finding import Finding, worst_first
from poolctl.report.inspection_words import KINDS, NAME_LIMIT, TARGET_LIMIT, counted
from poolctl.report.verdict import SENTENCE_LIMIT
from poolctl.safe_text import neutralize
from poolctl.sizing.division import Binding
from poolctl.units import format_count, format_duration

BINDS: dict[Binding, str] = {
    "budget": "the slots",
    "demand": "demand",
    "capacity": "what the database can use",
    "floor": "the fewest connections without a deadlock",
    "workers": "what the workers can hold",
}


def headline(recommended: RecommendResult) -> str:
    """The answer in one sentence."""
    answer = recommended.recommendation
    sizes = answer.recommendation
    if sizes.max_open is None:
        return f"Refused: {refusal_of(recommended)}"
    least = "at least " if answer.binding == "capacity" and answer.capacity.at_least else ""
    return (
        f"Set max_open to {least}{format_count(sizes.max_open)}, max_idle to {format_count(sizes.max_idle or 0)}, "
        f"max_lifetime to {lifetime(recommended)}, {where(recommended)}"
    )


def lifetime(recommended: RecommendResult) -> str:
    sizes = recommended.recommendation.recommendation
    share = sizes.max_lifetime_jitter / sizes.max_lifetime if sizes.max_lifetime > 0 else 0.0
    return f"{format_duration(sizes.max_lifetime)} with {share * 100:.0f} % jitter"


def where(recommended: RecommendResult) -> str:
    """Whose pools, and how many of them there are at worst."""
    fleet = recommended.recommendation.fleet
    instances = f"{format_count(fleet.worst_case_instances)} worst-case instances"
    if fleet.worst_case_processes == 1:
        return "in its only process"
    if fleet.processes_per_instance == 1:
        return f"in each of {instances}"
    if fleet.worst_case_instances == 1:
        return f"in each of {format_count(fleet.processes_per_instance)} processes"
    return f"in each of {format_count(fleet.processes_per_instance)} processes of {instances}"


def refusing_of(recommended: RecommendResult) -> Finding | None:
    """The finding that a refusal is about."""
    return next(iter(worst_first(recommended.recommendation.findings)), None)


def refusal_of(recommended: RecommendResult) -> str:
    finding = refusing_of(recommended)
    if finding is None:
        return "what is known allows no number"
    summary = neutralize(finding.summary, SENTENCE_LIMIT)
    # "Refused: pool size is not ..." reads as one sentence; a name that comes first keeps its spelling.
    first = summary.partition(" ")[0]
    return summary if first[1:] != first[1:].lower() else summary[:1].lower() + summary[1:]


def binding_sentence(recommended: RecommendResult) -> str:
    """What decides, what would decide next, and how sure it is; of a refusal which finding it is about."""
    answer = recommended.recommendation
    sizes = answer.recommendation
    if sizes.max_open is None:
        finding = refusing_of(recommended)
        return "" if finding is None else about(finding)
    values = {bound.term: bound.value for bound in answer.bounds}
    told = []
    if answer.binding is not None:
        told.append(f"What binds is {BINDS[answer.binding]}{_at(values.get(answer.binding))}")
        if answer.next_binding is not None:
            told[-1] += f"; {BINDS[answer.next_binding]} would bind next{_at(values.get(answer.next_binding))}"
    low, high = sizes.interval or (sizes.max_open, sizes.max_open)
    span = f", {format_count(low)} to {format_count(high)}" if high > low else ""
    told.append(f"Confidence {sizes.confidence}{span}")
    if answer.worst_case_connections is not None:
        worst, slots = format_count(answer.worst_case_connections), format_count(answer.budget.total)
        told.append(f"All pools full, with a deploy at the peak: {worst} of {slots} slots")
    return ". ".join(told)


def cautions_of(recommended: RecommendResult) -> tuple[str, ...]:
    """What a reader has to know before believing the answer."""
    cautions = []
    if recommended.interrupted:
        asked = f" of {format_duration(recommended.planned)}" if recommended.planned is not None else ""
        after = recommended.figures.window or 0.0
        cautions.append(f"INTERRUPTED after {format_duration(after)}{asked}: this stands on what was seen until then")
    for source in recommended.sources:
        if not source.ok:
            target = neutralize(source.target, TARGET_LIMIT)
            reason = neutralize(source.reason, SENTENCE_LIMIT) or "no reason was given"
            cautions.append(f"{KINDS[source.kind]} {target} did not answer: {reason}")
    return tuple(cautions)


def stands_on(recommended: RecommendResult) -> tuple[str, ...]:
    """How the figures came about, a sentence each."""
    return tuple(_stands_on(recommended))


def verification_sentence(recommended: RecommendResult) -> str:
    """How it was tried, and what came of it; "" when there is nothing to say."""
    tried = recommended.verification
    if tried is None:
        return recommended.unverified
    engine = {"model": "in virtual time", "live": "in virtual time and on a real server"}.get(
        tried.engine, tried.engine
    )
    if not tried.passed:
        return f"Tried {engine}, and it failed: {'; '.join(tried.failures)}"
    share = tried.throughput_share_of_best
    reached = "" if share is None else f": {share * 100:.0f} % of the best throughput among the sizes tried"
    return f"Tried {engine}, and it holds{reached}"


def about(finding: Finding) -> str:
    return f"{neutralize(finding.code, 40)} ({finding.layer}, {finding.confidence})"


def _at(value: int | None) -> str:
    return "" if value is None else f", at {format_count(value)}"


def _stands_on(recommended: RecommendResult) -> Iterator[str]:
    figures = recommended.figures
    if figures.window is not None:
        whose = "every client" if recommended.application is None else neutralize(recommended.application, NAME_LIMIT)
        effective = figures.effective_samples
        part = "" if effective is None else f", {format_count(round(effective))} of them independent"
        looked = f"{counted(figures.samples, 'sample')} in {format_duration(figures.window)}{part}"
        yield f"Measured of {whose}: {looked}"
    yield from (neutralize(note, SENTENCE_LIMIT) for note in recommended.notes)
