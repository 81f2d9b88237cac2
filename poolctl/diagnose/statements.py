"""What can be read off a statement's text without a parser."""

import re


def find_filtered_columns(query: str) -> list[str]:
    """Columns compared in the statement's WHERE, as candidates for an index, equality first. A guess from the text,
    not a parser."""
    _, *conditions = re.split(r"\bwhere\b", query, flags=re.IGNORECASE)
    if not conditions:
        return []
    condition = re.split(r"\b(?:order|group|limit)\b", conditions[0], flags=re.IGNORECASE)[0]
    pattern = r"(?:\w+\.)?\"?([a-z_]\w*)\"?\s*(<=|>=|<>|=|<|>|\bbetween\b|\bin\b)"
    compared = re.findall(pattern, condition, flags=re.IGNORECASE)
    columns = [name for name, operator in compared if operator == "="]
    columns += [name for name, operator in compared if operator not in ("=", "<>")]
    return list(dict.fromkeys(columns))[:2]
