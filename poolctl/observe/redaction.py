"""Takes out of a command line what may be a secret, and the literals of a statement, before anything keeps it.

It rather hides a word too many: a command line is shown to tell processes apart, and its first words do that.
"""

import re
from collections.abc import Sequence

from poolctl.safe_text import hide_literals

HIDDEN = "***"
LONGEST = 300
"""Characters that are kept of a command line."""
_LONGEST_READ = 4096
_WORD = (
    r"(?:pass(?:w(?:or)?d|phrase|code)?|pwd|secret|token|credentials?|api[-_.]?key|access[-_.]?key|private[-_.]?key)"
)
_VALUE = r"""(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.|'')*'?|[^\s"'&]+)"""
# Whoever runs here chooses the text: no part of a pattern may run on from each of its letters to the end.
_USERINFO = re.compile(r"(://[^\s:@/\"']{0,100}):\S*@")
_TOKEN_HOST = re.compile(r"(?i)(\bhttps?://)[^\s/@\"']+@")
_ASSIGNED = re.compile(rf"(?i)({_WORD}[\w.-]{{0,40}}[\"']?\s{{0,4}}[=:]\s{{0,4}}){_VALUE}")
_HEADER = re.compile(rf"(?i)(authorization[\"']?\s{{0,4}}[=:]\s{{0,4}}(?:\w{{1,20}}\s{{1,4}})?){_VALUE}")
_BEARER = re.compile(r"(?i)(\b(?:bearer|basic)\s{1,4})\S+")
_OPTION = re.compile(rf"(?i){_WORD}")
_STATEMENT = re.compile(
    r"\b(?:select|insert\s+into|update|delete\s+from|merge\s+into|copy|call|execute|values)[\s(]", re.IGNORECASE
)
_SHORT_OPTIONS = {"sshpass": "-p", "mysql": "-p", "mysqldump": "-p", "mariadb": "-p", "curl": "-u", "wget": "-u"}


def redacted(arguments: Sequence[str]) -> str:
    """The command line as one text, at most ``LONGEST`` characters, without what may be a secret or a literal."""
    shown: list[str] = []
    hide_next = False
    program = arguments[0].rpartition("/")[2] if arguments else ""
    short = _SHORT_OPTIONS.get(program)
    for argument in arguments:
        if hide_next:
            shown.append(HIDDEN)
            hide_next = False
        elif short is not None and argument.startswith(short) and argument != short:
            shown.append(short + HIDDEN)
        else:
            hide_next = argument == short or _asks_for_secret(argument)
            shown.append(_redacted_text(argument))
        if sum(map(len, shown)) > LONGEST:
            break
    text = (
        " ".join(part for part in shown if part).encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()
    )
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _asks_for_secret(argument: str) -> bool:
    """Whether it is an option whose value comes as the next argument."""
    is_option = argument.startswith("-") and len(argument) < LONGEST and not re.search(r"[=:\s]", argument)
    return is_option and _OPTION.search(argument) is not None


def _redacted_text(text: str) -> str:
    if len(text) > _LONGEST_READ:
        # What ends a password may have been cut off: then the rest of the word is one.
        text = text[:_LONGEST_READ] + "@"
    text = _USERINFO.sub(rf"\1:{HIDDEN}@", text)
    text = _TOKEN_HOST.sub(rf"\1{HIDDEN}@", text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    text = _ASSIGNED.sub(rf"\1{HIDDEN}", text)
    statement = _STATEMENT.search(text)
    return text if statement is None else text[: statement.start()] + hide_literals(text[statement.start() :])
