"""Takes out of a command line what may be a secret, before anything keeps it.

It rather hides a word too many: a command line is shown to tell processes apart, and its first words do that.
"""

import re
from collections.abc import Sequence

HIDDEN = "***"
LONGEST = 300
"""Characters that are kept of a command line."""
_LONGEST_READ = 16384
_WORD = (
    r"(?:pass(?:w(?:or)?d|phrase|code)?|pwd|secret|token|credentials?|api[-_.]?key|access[-_.]?key|private[-_.]?key)"
)
_VALUE = r"""(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.|'')*'?|[^\s"'&;,]+)"""
_USERINFO = re.compile(r"(://[^\s:@/\"']*):\S*@")
_TOKEN_HOST = re.compile(r"(?i)(\bhttps?://)[^\s/@\"']+@")
_ASSIGNED = re.compile(rf"(?i)([\w.-]*{_WORD}[\w.-]*[\"']?\s*[=:]\s*){_VALUE}")
_HEADER = re.compile(rf"(?i)(authorization[\"']?\s*[=:]\s*(?:\w+\s+)?){_VALUE}")
_BEARER = re.compile(r"(?i)(\b(?:bearer|basic)\s+)\S+")
_OPTION = re.compile(rf"(?i)--?[\w.-]*{_WORD}[\w.-]*")
_SHORT_OPTIONS = {"sshpass": "-p", "mysql": "-p", "mysqldump": "-p", "mariadb": "-p", "curl": "-u", "wget": "-u"}


def redacted(arguments: Sequence[str]) -> str:
    """The command line as one text, at most ``LONGEST`` characters, without what may be a secret."""
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
            hide_next = argument == short or _OPTION.fullmatch(argument) is not None
            shown.append(_redacted_text(argument[:_LONGEST_READ]))
        if sum(map(len, shown)) > LONGEST:
            break
    text = (
        " ".join(part for part in shown if part).encode("utf-8", "surrogateescape").decode("utf-8", "replace").strip()
    )
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _redacted_text(text: str) -> str:
    text = _USERINFO.sub(rf"\1:{HIDDEN}@", text)
    text = _TOKEN_HOST.sub(rf"\1{HIDDEN}@", text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    return _ASSIGNED.sub(rf"\1{HIDDEN}", text)
