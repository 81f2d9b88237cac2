"""The statements of ``queries/*.sql``, as a server of a given version understands them.

A line that ends in ``-- 14+`` is for PostgreSQL 14 and newer, one that ends in ``-- <13`` for versions before 13; any
other line is for all. ``{names}`` are filled with numbers and quoted identifiers only, never with a client's text:
everything is sent by the simple protocol, which has no parameters and which every pooler passes on.
"""

import re
from functools import lru_cache
from pathlib import Path

_FOLDER = Path(__file__).parent / "queries"
MARK = "/* poolctl */"
"""Stands in every statement behind its first word, where pg_stat_statements keeps it, so that poolctl finds its own."""

_FIRST_WORD = re.compile(r"^(\w+)")
_ONLY_FOR = re.compile(r"\s*-- (?:(?P<since>\d+)\+|<(?P<before>\d+))$")


@lru_cache
def load_statement(name: str, version_number: int = 999_999) -> str:
    """Load ``queries/NAME.sql`` for ``version_number`` (server_version_num), without its comments."""
    lines = []
    for line in (_FOLDER / f"{name}.sql").read_text(encoding="utf-8").splitlines():
        only_for = _ONLY_FOR.search(line)
        if only_for is not None and not _is_for(only_for, version_number // 10000):
            continue
        code = line[: only_for.start()] if only_for else line
        if not code.lstrip().startswith("--"):
            lines.append(code)
    return _FIRST_WORD.sub(rf"\1 {MARK}", "\n".join(lines), count=1)


def format_numbers(values: "set[int] | tuple[int, ...] | list[int]") -> str:
    """Format a list for ``IN (...)``, which must not be empty in SQL."""
    return ", ".join(str(int(value)) for value in sorted(values)) or "NULL"


def _is_for(only_for: "re.Match[str]", major: int) -> bool:
    if only_for["since"] is not None:
        return major >= int(only_for["since"])
    return major < int(only_for["before"])
