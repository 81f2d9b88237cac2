"""Prints docs/findings.md: every finding that poolctl reports, from the catalog.

python docs/findings.py > docs/findings.md
"""

import sys
from collections.abc import Iterator

from poolctl.diagnose.catalog import CATALOG, FindingType, describe
from poolctl.diagnose.examples import EXAMPLES

INTRODUCTION = """\
# Findings

What `poolctl inspect`, `simulate`, `recommend` and `guard` report, in one page: what each finding means, what it
looks like, what it is mistaken for, what to do, and what would decide where poolctl cannot. `poolctl inspect --explain
CODE` prints the same for one of them.

A finding has a *severity* (critical: clients are refused or wait now; warning: they will if it goes on; info: advice),
a *confidence* (certain, likely, undetermined) and a *layer* (application, pooler, database, host). The causes of a full
pool have opposite remedies. Where the data cannot separate two of them, poolctl reports an undetermined finding and the
observation that would decide.

The examples are real screens of staged systems, wrapped to this page. This page is the output of
[findings.py](findings.py).
"""


def page() -> str:
    """Return the whole of docs/findings.md."""
    return "\n".join([INTRODUCTION, *write_index(), *(line for entry in CATALOG.values() for line in write(entry))])


def write_index() -> Iterator[str]:
    yield "| code | layer | what it is | reported by |"
    yield "| --- | --- | --- | --- |"
    for entry in CATALOG.values():
        yield f"| [`{entry.code}`](#{entry.code}) | {entry.layer} | {entry.title} | {', '.join(entry.reported_by)} |"
    yield ""


def write(entry: FindingType) -> Iterator[str]:
    yield from (f"## {entry.code}", "", f"{entry.title}. Layer: {entry.layer}. ", "")
    for heading, text in describe(entry):
        yield from (f"**{heading}.** {text}", "")
    yield from ("```text", EXAMPLES[entry.code].rstrip("\n"), "```", "")
    for statement in entry.sql:
        yield from ("```sql", statement, "```", "")


if __name__ == "__main__":
    sys.stdout.write(page())
