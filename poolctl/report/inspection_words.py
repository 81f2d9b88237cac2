"""An inspection in sentences, for every way of showing it. Pure: no layout, no color.

Decides what stands first, how a holder is named, and what a reader has to know before believing the numbers. Every
foreign name in it is neutralized here.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import TYPE_CHECKING, Any

from poolctl.diagnose.finding import Finding, Holder, worst_first
from poolctl.report.facts import evidence_items
from poolctl.report.verdict import SENTENCE_LIMIT, Verdict, sentence_of, word_of
from poolctl.safe_text import neutralize
from poolctl.units import format_count, format_duration

if TYPE_CHECKING:
    from poolctl.api.results import InspectResult
    from poolctl.observe.snapshot import Source

MOST_HOLDERS = 5
MOST_PIDS = 8
MOST_EVIDENCE = 10
NAME_LIMIT = 60
QUERY_LIMIT = 160
TARGET_LIMIT = 120

_TIMES = re.compile(
    r"(^|_)(age|pause|spread|(?<!in_)use|hold|wait|time|lag|end|transaction|window|left)(_|$)|^(oldest|longest)_"
)

KINDS = {
    "postgres": "PostgreSQL",
    "pgbouncer": "PgBouncer",
    "pgpool": "Pgpool-II",
    "host": "this host",
    "pool-stats": "pool figures",
}


def inspection_verdict(inspection: "InspectResult") -> Verdict:
    """The worst finding's verdict. Without any finding nothing is claimed."""
    findings = inspection.diagnosis.findings
    if not findings:
        return Verdict("NO VERDICT", None, "", "nothing was seen that a diagnosis could stand on")
    worst = worst_first(findings)[0]
    # A server that was asked and could not be looked at is not in order: nobody knows.
    unseen = any(source.kind == "postgres" for source in inspection.observation.sources)
    unseen = unseen and not inspection.observation.samples
    is_open = worst.code == "healthy" and (unseen or worst.confidence == "undetermined")
    return Verdict("NO VERDICT" if is_open else word_of(worst), worst.severity, worst.code, sentence_of(worst))


def about(finding: Finding) -> str:
    """Which finding it is, in which layer, how sure, and what the remedy gives back."""
    frees = f"the remedy frees {counted(finding.frees, 'slot')}" if finding.frees else "the remedy frees no slot"
    known = f"{neutralize(finding.code, 40)} ({finding.layer}, {finding.confidence})"
    return known if finding.severity == "info" else f"{known}; {frees}"


def evidence_of(finding: Finding) -> str:
    """The finding's numbers on one line, "" without any."""
    items = evidence_items({name: _told(name, value) for name, value in finding.evidence.items()})
    told = [f"{item.name.replace('_', ' ')} {item.value}" for item in items[:MOST_EVIDENCE]]
    return ", ".join(told) + (", ..." if len(items) > MOST_EVIDENCE else "")


def steps_of(finding: Finding) -> tuple[str, ...]:
    """What to do about it. Where the cause is undetermined, the observation that decides comes first."""
    lines = [neutralize(line, SENTENCE_LIMIT) for line in finding.remedy.splitlines()]
    if finding.decide_by:
        decide = f"To decide: {neutralize(finding.decide_by, SENTENCE_LIMIT)}"
        lines.insert(0 if finding.confidence == "undetermined" else len(lines), decide)
    return tuple(line for line in lines if line)


def holders_of(finding: Finding) -> tuple[tuple[str, str], ...]:
    """Each holder with its last query ("" where it was not seen), at most ``MOST_HOLDERS``, then how many more."""
    shown = tuple(
        (named(holder), neutralize(holder.last_query, QUERY_LIMIT) if holder.last_query else "")
        for holder in finding.holders[:MOST_HOLDERS]
    )
    rest = finding.holders[MOST_HOLDERS:]
    if not rest:
        return shown
    backends = sum(len(holder.pids) for holder in rest)
    return (*shown, (f"and {counted(len(rest), 'more holder')} with {counted(backends, 'backend')}: see --json", ""))


def named(holder: Holder) -> str:
    """A holder in one line: application, user, client, process, route, backends."""
    return ", ".join(_names(holder)) or "unknown"


def pids_of(pids: Sequence[int]) -> str:
    """ "3 backends (4711, 4712, 4713)", with at most ``MOST_PIDS`` of them named."""
    more = " ..." if len(pids) > MOST_PIDS else ""
    return f"{counted(len(pids), 'backend')} ({', '.join(map(str, pids[:MOST_PIDS]))}{more})"


def cautions_of(inspection: "InspectResult") -> tuple[str, ...]:
    """What a reader has to know before believing the verdict."""
    observation = inspection.observation
    cautions = []
    if inspection.interrupted:
        asked = f" of {format_duration(inspection.planned)}" if inspection.planned is not None else ""
        cautions.append(
            f"INTERRUPTED after {format_duration(observation.window)}{asked}: this is what was seen until then"
        )
    elif len(observation.snapshots) == 1:
        cautions.append("ONE SAMPLE: what moves and what is stuck looks the same in it; look for longer")
    cautions += [_doubt(finding) for finding in _doubts(inspection)]
    refused = any(snapshot.refusal for snapshot in observation.snapshots)
    for source in observation.sources:
        # Without the host less is known, and nothing is wrong: that is told below.
        if not source.ok and source.kind != "host":
            failed = "let nobody in" if refused and source.kind == "postgres" else "did not answer"
            cautions.append(f"{_source(source)} {failed}: {_reason(source)}")
    return tuple(cautions)


def _doubts(inspection: "InspectResult") -> list[Finding]:
    """What may be wrong although the verdict is that nothing is."""
    findings = worst_first(inspection.diagnosis.findings)
    if not findings or findings[0].code != "healthy":
        return []
    return [finding for finding in findings[1:] if finding.confidence == "undetermined"]


def _doubt(finding: Finding) -> str:
    decide = f"; to decide: {neutralize(finding.decide_by, SENTENCE_LIMIT)}" if finding.decide_by else ""
    return f"UNDETERMINED: {neutralize(finding.summary, SENTENCE_LIMIT)}{decide}"


def seen_lines(inspection: "InspectResult") -> tuple[tuple[str, str], ...]:
    """How it was observed: a label and a sentence a line."""
    return tuple(_seen(inspection))


def instant(at: float) -> str:
    """An instant in UTC: people in several time zones read the same report."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def clock(at: float) -> str:
    """The time of day of an instant, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC")


def counted(number: int, noun: str) -> str:
    return f"{format_count(number)} {noun}{'' if number == 1 else 's'}"


def sql_of(findings: Sequence[Finding]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The SQL that shows each finding's evidence again, in lines, each statement once with the codes it is for.

    Lines stay lines: a comment ends with its own.
    """
    codes: dict[tuple[str, ...], list[str]] = {}
    for finding in worst_first(findings):
        if finding.evidence_sql and finding.code != "healthy":
            lines = tuple(_indented(line) for line in finding.evidence_sql.splitlines())
            codes.setdefault(lines, []).append(neutralize(finding.code, 40))
    return tuple((", ".join(dict.fromkeys(names)), lines) for lines, names in codes.items())


def _indented(line: str) -> str:
    bare = line.lstrip(" ")
    return " " * (len(line) - len(bare)) + neutralize(bare, None)


def _told(name: str, value: Any) -> Any:
    """Numbers by what they are: counts are whole, so a fraction under a name of times is a time."""
    if isinstance(value, bool) or "share" in name:
        return value
    if isinstance(value, int):
        return format_count(value)
    if isinstance(value, float) and isfinite(value):
        return format_duration(value) if _TIMES.search(name) else format_count(round(value, 2))
    return value


def _names(holder: Holder) -> Iterator[str]:
    if holder.application:
        yield f"application {neutralize(holder.application, NAME_LIMIT)}"
    elif holder.application is not None:
        yield "no application_name"
    if holder.user:
        yield f"user {neutralize(holder.user, NAME_LIMIT)}"
    if holder.client:
        yield f"client {neutralize(holder.client, NAME_LIMIT)}"
    if holder.process:
        command = _command(str(holder.process.get("command") or "?"))
        status = holder.process.get("status")
        state = f", {neutralize(str(status), 20)}" if status == "stopped" else ""
        yield f"process {holder.process.get('pid', '?')} ({command}{state})"
    if holder.route:
        yield f"route {neutralize(holder.route, NAME_LIMIT)}"
    if holder.pids:
        yield pids_of(holder.pids)


def _command(command: str) -> str:
    """The beginning of a command line, without the folders that its programs lie in."""
    words = neutralize(command[: 20 * NAME_LIMIT], None).split(" ")
    short = " ".join(word.rpartition("/")[2] if word.startswith("/") else word for word in words)
    return short if len(short) <= NAME_LIMIT else f"{short[: NAME_LIMIT - 3].rstrip()}..."


def _seen(inspection: "InspectResult") -> Iterator[tuple[str, str]]:
    observation = inspection.observation
    if observation.snapshots:
        samples = counted(len(observation.snapshots), "sample")
        since = f" in {format_duration(observation.window)}" if observation.window else ""
        yield "Seen", f"{samples}{since}, from {instant(observation.first.at)}"
    if inspection.replayed:
        yield "From", f"the recording {neutralize(inspection.replayed, TARGET_LIMIT)}"
    for source in observation.sources:
        if source.ok:
            part = f" ({_reason(source)})" if source.reason else ""
            yield "From", f"{_source(source)}{_version(inspection, source)}{part}"
    for source in observation.sources:
        if not source.ok:
            yield "Failed", f"{_source(source)}: {_reason(source)}"
    for sentence in inspection.diagnosis.unseen:
        yield "Unseen", neutralize(sentence, SENTENCE_LIMIT)


def _source(source: "Source") -> str:
    target = neutralize(source.target, TARGET_LIMIT)
    return KINDS[source.kind] if source.kind == "host" or not target else f"{KINDS[source.kind]} {target}"


def _version(inspection: "InspectResult", source: "Source") -> str:
    server = inspection.observation.server
    if source.kind != "postgres" or server is None:
        return ""
    sees = "who sees every session" if server.can_see_all else "who sees only its own sessions in full"
    through = ", through a pooler" if server.is_behind_pooler else ""
    return f", version {neutralize(server.version, 40)}, as {neutralize(server.role, NAME_LIMIT)}, {sees}{through}"


def _reason(source: "Source") -> str:
    return neutralize(source.reason, SENTENCE_LIMIT) or "no reason was given"
