"""When a database counts as busy, and a statement as its workload: for live systems, runs and recommendations alike."""

import re

BUSY_SHARE = 0.9
"""Share of the cores that the server alone keeps busy. Above it throughput can grow by a ninth at most, whatever the
pool."""
DOMINANT_SHARE = 0.5
"""Share of the execution time above which one statement is the workload."""
SMALL_TABLE = 1000
"""Rows below which reading a table from end to end is what a good plan does (a proposal)."""


def find_filtered_columns(query: str) -> list[str]:
    """Find the columns that the statement's WHERE compares, equality first, as candidates for an index. A guess.

    At most two.
    """
    _, *conditions = re.split(r"\bwhere\b", query, flags=re.IGNORECASE)
    if not conditions:
        return []
    condition = re.split(r"\b(?:order|group|limit)\b", conditions[0], flags=re.IGNORECASE)[0]
    pattern = r"(?:\w+\.)?\"?([a-z_]\w*)\"?\s*(<=|>=|<>|=|<|>|\bbetween\b|\bin\b)"
    compared = re.findall(pattern, condition, flags=re.IGNORECASE)
    columns = [name for name, operator in compared if operator == "="]
    columns += [name for name, operator in compared if operator not in ("=", "<>")]
    return list(dict.fromkeys(columns))[:2]
