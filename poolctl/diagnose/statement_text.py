"""What can be read from a statement's text without a parser."""

import re


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
