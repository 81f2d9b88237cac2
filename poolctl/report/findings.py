"""Findings in words, for every report: how bad it is, who causes it, what to do, why.

Decides which finding speaks first, how a holder is named, how a number of the evidence is written, and how much of
each fits. What is true was decided by the diagnosis. Each foreign name is neutralized here.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from math import isfinite
from typing import Any

from poolctl.diagnose.finding import Finding, Holder, worst_first
from poolctl.pool.settings import PoolSettings
from poolctl.report.blocks import Code, FindingBlock, Item, Labeled, Points, Verdict
from poolctl.safe_text import neutralize
from poolctl.units import format_count, format_duration, percent, plural

SENTENCE_LIMIT = 600
"""Characters of a sentence of ours that may quote foreign names."""
NAME_LIMIT = 60
QUERY_LIMIT = 160
TARGET_LIMIT = 120
MOST_HOLDERS = 5
MOST_INSTANCES = 6
MOST_PIDS = 8
MOST_EVIDENCE = 10
MOST_EXPLAINED = 3

_OWN_NAME = re.compile(r"(?i)\A(deallocate|close)\b.*", re.DOTALL)
"""Statements that name what each session calls otherwise, such as PDO's pdo_stmt_00000007."""

_TIMES = re.compile(
    r"(^|_)(age|pause|spread|(?<!in_)use|hold|wait|time|duration|lag|end|transaction|window|left)(_(?!stretch)|$)"
    r"|_at$|^(oldest|longest)_"
)
"""Names of evidence whose fractions are seconds."""

_SETTINGS = frozenset(field.name for field in fields(PoolSettings))


def word_of(finding: Finding) -> str:
    """Return how bad a finding is, as a word that needs no color."""
    return "OK" if finding.code == "healthy" else finding.severity.upper()


def sentence_of(finding: Finding) -> str:
    """Return the finding's summary, with its confidence unless that is certain."""
    summary = summary_of(finding)
    return summary if finding.confidence == "certain" else f"{summary} ({finding.confidence})"


def summary_of(finding: Finding) -> str:
    """Return the finding's summary, harmless in a terminal."""
    return neutralize(finding.summary, SENTENCE_LIMIT)


def verdict_of(findings: Sequence[Finding], without: str) -> Verdict:
    """Return the worst finding's verdict. ``without``: what to say if there is none, for then nothing is claimed."""
    if not findings:
        return Verdict("NO VERDICT", None, "", without)
    worst = worst_first(findings)[0]
    return Verdict(word_of(worst), worst.severity, worst.code, sentence_of(worst))


def name_finding(finding: Finding) -> str:
    """Return which finding it is, in which layer, and how sure: "leak (application, certain)"."""
    if finding.code == "healthy" and finding.confidence == "undetermined":
        return "undetermined"
    return f"{neutralize(finding.code, 40)} ({finding.layer}, {finding.confidence})"


def name_with_slots(finding: Finding) -> str:
    """Return which finding it is, and how many slots its remedy gives back."""
    frees = f"the remedy frees {plural(finding.frees, 'slot')}" if finding.frees else "the remedy frees no slot"
    return name_finding(finding) if finding.severity == "info" else f"{name_finding(finding)}; {frees}"


def build_finding_block(
    finding: Finding, about: str = "", *, is_first: bool = False, named_before: Sequence[Holder] = ()
) -> FindingBlock:
    """Return everything about a finding. ``is_first``: the verdict has said its summary.

    ``named_before``: holders that another finding has named, who are not named again.
    """
    if finding.holders and finding.holders == tuple(named_before):
        who: tuple[Item, ...] = (Item("the same as above"),)
    else:
        who = list_holders(finding)
    evidence = describe_evidence(finding)
    why = (Item(evidence),) if evidence else ()
    points = Points((Labeled("Who", who), label_steps(plan_steps(finding)), Labeled("Why", why)))
    if is_first:
        return FindingBlock("", finding.severity, "", "", points)
    return FindingBlock(word_of(finding), finding.severity, summary_of(finding), about, points)


def label_steps(steps: Sequence[str], label: str = "Do") -> Labeled:
    return Labeled(label, tuple(map(Item, steps)), is_ordered=True)


def plan_steps(finding: Finding) -> tuple[str, ...]:
    """Return what to do about it. Where the cause is undetermined, the observation that decides comes first."""
    lines = [neutralize(line, SENTENCE_LIMIT) for line in finding.remedy.splitlines()]
    if finding.decide_by:
        decide = f"To decide: {neutralize(finding.decide_by, SENTENCE_LIMIT)}"
        lines.insert(0 if finding.confidence == "undetermined" else len(lines), decide)
    return tuple(line for line in lines if line)


def describe_evidence(finding: Finding) -> str:
    """Return the finding's numbers on one line, "" without any."""
    items = list_evidence(finding.evidence)
    return ", ".join(items[:MOST_EVIDENCE]) + (", ..." if len(items) > MOST_EVIDENCE else "")


def list_evidence(evidence: Mapping[str, Any]) -> list[str]:
    """Return each number of the evidence with its name: "oldest age 6.87 min".

    Unknown values, lists, tables and the rule's own threshold are left to the JSON.
    """
    return [
        f"{_spell(name)} {_format_evidence(name, value)}"
        for name, value in evidence.items()
        if name != "threshold" and value is not None and not isinstance(value, Mapping | list | tuple | set | frozenset)
    ]


def list_holders(finding: Finding) -> tuple[Item, ...]:
    """Return each holder with its last query, at most ``MOST_HOLDERS``, and then how many more there are.

    The instances of one application that ran the same statement last are one holder.
    """
    groups: dict[tuple[str | None, ...], list[Holder]] = {}
    for holder in finding.holders:
        query = _OWN_NAME.sub(r"\1", holder.last_query or "")
        key = (holder.application, holder.user, holder.route, query)
        groups.setdefault(key, []).append(holder)
    named = list(groups.values())
    shown = tuple(
        Item(
            _name_instances(members),
            neutralize(members[0].last_query, QUERY_LIMIT) if members[0].last_query else "",
        )
        for members in named[:MOST_HOLDERS]
    )
    rest = [holder for members in named[MOST_HOLDERS:] for holder in members]
    if not rest:
        return shown
    backends = sum(len(holder.pids) for holder in rest)
    return (*shown, Item(f"and {plural(len(rest), 'more holder')} with {plural(backends, 'backend')}: see --json"))


def _name_instances(members: Sequence[Holder]) -> str:
    """Return the holders of one application in one line: where they run, and their backends together."""
    first = members[0]
    if len(members) == 1:
        return name_holder(first)
    clients = list(dict.fromkeys(neutralize(each.client, NAME_LIMIT) for each in members if each.client))
    processes = list(dict.fromkeys(str(each.process.get("pid", "?")) for each in members if each.process))
    whole = replace(first, client=None, process=None, pids=tuple(pid for each in members for pid in each.pids))
    *names, backends = _list_names(whole)
    places = [f"{len(members)} instances"]
    for noun, known in (("client", clients), ("process", processes)):
        if known:
            more = " ..." if len(known) > MOST_INSTANCES else ""
            places.append(f"{noun} {' '.join(known[:MOST_INSTANCES])}{more}")
    if first.process:
        places[-1] += f" ({_shorten(str(first.process.get('command') or '?'))})"
    return ", ".join((*names, *places, backends))


def name_holder(holder: Holder) -> str:
    """Return a holder in one line: application, user, client, process, route, backends."""
    return ", ".join(_list_names(holder)) or "unknown"


def name_explanation(findings: Sequence[Finding]) -> Labeled:
    """Return the command that explains the findings of a report; empty where nothing is wrong.

    The command is named once for a report, with the worst finding's code.
    """
    codes = [neutralize(finding.code, 40) for finding in worst_first(findings) if finding.code != "healthy"]
    codes = list(dict.fromkeys(codes))[:MOST_EXPLAINED]
    if not codes:
        return Labeled("More", ())
    others = f" (or {', '.join(codes[1:])})" if codes[1:] else ""
    return Labeled("More", (Item(f"poolctl inspect --explain {codes[0]}{others}"),))


def collect_sql(findings: Sequence[Finding]) -> tuple[Code, ...]:
    """Return the SQL that verifies the findings, each statement once with the codes that it is for.

    Lines stay lines: a comment ends with its own.
    """
    codes: dict[str, list[str]] = {}
    for finding in worst_first(findings):
        if finding.evidence_sql and finding.code != "healthy":
            text = "\n".join(_indent(line) for line in finding.evidence_sql.splitlines())
            codes.setdefault(text, []).append(neutralize(finding.code, 40))
    return tuple(
        Code(f"Verify with SQL ({', '.join(dict.fromkeys(names))}):", text, "sql") for text, names in codes.items()
    )


def _indent(line: str) -> str:
    bare = line.lstrip(" ")
    return " " * (len(line) - len(bare)) + neutralize(bare, None)


def _spell(name: str) -> str:
    """Return the name of a number in words. A setting keeps its own spelling."""
    name = neutralize(str(name), 40)
    # A sample was a look when these keys became public.
    return name if name in _SETTINGS else name.replace("_", " ").replace("looks", "samples")


def _format_evidence(name: str, value: Any) -> str:
    """Format a number by its name and type: counts are whole, so a fraction under a name of times is a time."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return neutralize(str(value), 120)
    if not isfinite(value):
        return "unknown"
    if "share" in name:
        return percent(value)
    if _TIMES.search(name) and (isinstance(value, float) or name.endswith("_at")):
        return format_duration(value)
    return format_count(value)


def _list_names(holder: Holder) -> Iterator[str]:
    if holder.application:
        yield f"application {neutralize(holder.application, NAME_LIMIT)}"
    elif holder.application is not None:
        yield "no application_name"
    if holder.user:
        yield f"user {neutralize(holder.user, NAME_LIMIT)}"
    if holder.client:
        yield f"client {neutralize(holder.client, NAME_LIMIT)}"
    if holder.process:
        command = _shorten(str(holder.process.get("command") or "?"))
        status = holder.process.get("status")
        state = f", {neutralize(str(status), 20)}" if status == "stopped" else ""
        yield f"process {holder.process.get('pid', '?')} ({command}{state})"
    if holder.route:
        yield f"route {neutralize(holder.route, NAME_LIMIT)}"
    if holder.acquired_at:
        yield f"acquired at {neutralize(holder.acquired_at, NAME_LIMIT * 3)}"
    if holder.pids:
        # A paste without process ids has backends that are only counted, by numbers below zero.
        known = [pid for pid in holder.pids if pid >= 0]
        more = " ..." if len(known) > MOST_PIDS else ""
        pids = f" ({', '.join(map(str, known[:MOST_PIDS]))}{more})" if known else ""
        yield f"{plural(len(holder.pids), 'backend')}{pids}"


def _shorten(command: str) -> str:
    """Return the beginning of a command line, without the folders of its programs."""
    words = neutralize(command[: 20 * NAME_LIMIT], None).split(" ")
    short = " ".join(word.rpartition("/")[2] if word.startswith("/") else word for word in words)
    return short if len(short) <= NAME_LIMIT else f"{short[: NAME_LIMIT - 3].rstrip()}..."
