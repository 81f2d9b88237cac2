"""Hides what a SQL text says about people: strings, numbers, comments; and finds the tags that say where it came from.

Pure. The text may be cut anywhere (track_activity_query_size), may be no SQL at all, and comes from clients: whatever
cannot be told for certain to be no literal is taken for one. Lexical rules: PostgreSQL's scan.l. Tags: sqlcommenter
(``/*key='value',...*/``, URL-encoded) and Rails' older ``/*key:value,...*/``.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from urllib.parse import unquote

STRING, NUMBER = "'...'", "?"
HIDDEN = "..."
"""Instead of the rest of a text in which strings can no longer be told from what is between them."""

KEPT_TAGS = frozenset(
    {
        *("app", "application", "service", "framework", "db_driver"),
        *("route", "controller", "action", "job", "handler", "view", "func", "function"),
    }
)
"""Names of places in a program. Other tags may hold anything: trace ids, users, parameters."""

_LONGEST_TAG = 200

_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"[^\W\d][\w$]*")
# All that follows a digit without a break belongs to it: 1e-5, 0xFF, 1_000, and junk such as 12abc.
_NUMBER = re.compile(r"\.?\d(?:[eE][+-]\d|[\w.])*")
_PARAMETER = re.compile(r"\$\d+")
_DOLLAR_QUOTE = re.compile(r"\$(?:[^\W\d]\w*)?\$")
_LINE_END = re.compile(r"[\r\n]")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_PREFIXES = frozenset({"e", "b", "x", "n", "u&"})

_SECRETS = (
    re.compile(r"(://[^\s/:@]*:)[^\s/@]+(?=@)"),
    re.compile(
        r"(\b(?:PG)?(?:PASSWORD|PASSWD|PASSPHRASE|PWD|SECRET|TOKEN)\s*[=:]\s*)(?:'[^']*'?|\"[^\"]*\"?|\S+)",
        re.IGNORECASE,
    ),
    re.compile(r"(--pass(?:word|wd)?\s+)(?!-)\S+", re.IGNORECASE),
)
"""What stands before a secret, as a group, and the secret."""

_TAG = re.compile(r"\s*([\w.%-]{1,60})(?:='((?:[^'\\]|\\.)*)'|:([^,'=*]*))\s*(?:,|$)", re.DOTALL)


def hide_literals(query: str) -> str:
    """``query`` with every string as ``'...'``, every number as ``?``, and no comments but tags of ``KEPT_TAGS``.

    Names in double quotes and parameters ($1) stay. Hiding twice changes nothing.
    """
    return "".join(shown for shown, _ in _pieces(query)).strip()


def hide_secrets(text: str) -> str:
    """``text``, such as a command line, without the passwords of connection strings and options in it."""
    for pattern in _SECRETS:
        text = pattern.sub(rf"\1{HIDDEN}", text)
    return text


def find_route(query: str | None) -> str | None:
    """The place in the program that a statement's tags name: a route, else controller#action, else a job or function.

    None without tags, and where the server cut them off.
    """
    if query is None or "/*" not in query:
        return None
    tags: dict[str, str] = {}
    for _, comment in _pieces(query):
        tags |= _tags(comment)
    if route := tags.get("route"):
        return route
    if controller := tags.get("controller"):
        action = tags.get("action")
        return f"{controller}#{action}" if action else controller
    found = (tags.get(key) for key in ("action", "job", "handler", "view", "func", "function"))
    return next((value for value in found if value), None)


def _pieces(query: str) -> Iterator[tuple[str, str]]:
    """What may be shown of each part of the text, and the comment that the part is, else ""."""
    at, end = 0, len(query)
    while at < end:
        start = query[at]
        if query.startswith("/*", at):
            at, before = _comment_end(query, at), at
            yield _kept(query[before:at]), query[before:at]
            continue
        if query.startswith("--", at):
            line_end = _LINE_END.search(query, at)
            at = end if line_end is None else line_end.start()
            continue
        if start == "'":
            piece, at = _string(query, at, escapes=False)
        elif start == '"':
            at, before = _quoted_end(query, at), at
            piece = query[before:at]
        elif start == "$":
            piece, at = _dollar(query, at)
        elif start.isdigit() or (start == "." and query[at + 1 : at + 2].isdigit()):
            found = _NUMBER.match(query, at)
            piece, at = NUMBER, found.end() if found else at + 1
        elif word := _WORD.match(query, at):
            piece, at = _word(query, word)
        elif space := _SPACE.match(query, at):
            piece, at = space[0], space.end()
        else:
            piece, at = start, at + 1
        yield piece, ""


def _word(query: str, word: "re.Match[str]") -> tuple[str, int]:
    """A name or keyword, or the beginning of a string such as E'...' or U&'...'."""
    text, at = word[0], word.end()
    if text.lower() == "u" and query.startswith("&'", at):
        text, at = text + "&", at + 1
    if text.lower() in _PREFIXES and query.startswith("'", at):
        return _string(query, at, escapes=text.lower() == "e")
    return text, at


def _string(query: str, at: int, *, escapes: bool) -> tuple[str, int]:
    stop = _string_end(query, at, escapes=escapes)
    return (STRING + HIDDEN, len(query)) if stop is None else (STRING, stop)


def _string_end(query: str, at: int, *, escapes: bool) -> int | None:
    r"""Behind the string that begins at ``at``; the end of the text when it is not closed.

    None where a backslash stands before a quote that it may or may not escape: that is decided by
    standard_conforming_strings, which the text does not say.
    """
    at += 1
    while True:
        quote = query.find("'", at)
        if quote < 0:
            return len(query)
        backslashes = len(query[at:quote]) - len(query[at:quote].rstrip("\\"))
        if backslashes % 2 and not escapes:
            return None
        if backslashes % 2:
            at = quote + 1
        elif query.startswith("''", quote):
            at = quote + 2
        else:
            return quote + 1


def _quoted_end(query: str, at: int) -> int:
    close = query.find('"', at + 1)
    return len(query) if close < 0 else close + 1


def _comment_end(query: str, at: int) -> int:
    """Behind a comment, which may hold others."""
    depth = 0
    for edge in _COMMENT_EDGE.finditer(query, at):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(query)


def _dollar(query: str, at: int) -> tuple[str, int]:
    """A parameter, a dollar-quoted string, or a lone dollar."""
    if parameter := _PARAMETER.match(query, at):
        return parameter[0], parameter.end()
    if opened := _DOLLAR_QUOTE.match(query, at):
        close = query.find(opened[0], opened.end())
        return STRING, len(query) if close < 0 else close + len(opened[0])
    return "$", at + 1


def _tags(comment: str) -> dict[str, str]:
    """The tags of a complete comment, decoded; none unless it consists of nothing else."""
    if not comment.endswith("*/") or len(comment) < 4:
        return {}
    inside = comment[2:-2].strip()
    found: dict[str, str] = {}
    at = 0
    while at < len(inside):
        tag = _TAG.match(inside, at)
        if tag is None:
            return {}
        value = tag[2].replace("\\'", "'") if tag[2] is not None else tag[3].strip()
        found[unquote(tag[1])] = unquote(value)[:_LONGEST_TAG]
        at = tag.end()
    return found


def _kept(comment: str) -> str:
    """What of a comment may be shown: its tags that name a place in the program."""
    kept = {key: value for key, value in _tags(comment).items() if key in KEPT_TAGS}
    if not kept:
        return " "
    return "/*" + ",".join(f"{key}='{_plain(value)}'" for key, value in kept.items()) + "*/"


def _plain(value: str) -> str:
    """Encoded as far as it would end the tag or the comment."""
    for character in "%'\\*":
        value = value.replace(character, f"%{ord(character):02X}")
    return value


REDACTION_HIDDEN = "***"
LONGEST = 300
"""Characters that are kept of a command line."""
_LONGEST_READ = 4096
_REDACTION_WORD = (
    r"(?:pass(?:w(?:or)?d|phrase|code)?|pwd|secret|token|credentials?|api[-_.]?key|access[-_.]?key|private[-_.]?key)"
)
_VALUE = r"""(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.|'')*'?|[^\s"'&]+)"""
# Whoever runs here chooses the text: no part of a pattern may run on from each of its letters to the end.
_USERINFO = re.compile(r"(://[^\s:@/\"']{0,100}):\S*@")
_TOKEN_HOST = re.compile(r"(?i)(\bhttps?://)[^\s/@\"']+@")
_ASSIGNED = re.compile(rf"(?i)({_REDACTION_WORD}[\w.-]{{0,40}}[\"']?\s{{0,4}}[=:]\s{{0,4}}){_VALUE}")
_HEADER = re.compile(rf"(?i)(authorization[\"']?\s{{0,4}}[=:]\s{{0,4}}(?:\w{{1,20}}\s{{1,4}})?){_VALUE}")
_BEARER = re.compile(r"(?i)(\b(?:bearer|basic)\s{1,4})\S+")
_OPTION = re.compile(rf"(?i){_REDACTION_WORD}")
_STATEMENT = re.compile(
    r"\b(?:select|insert\s+into|update|delete\s+from|merge\s+into|copy|call|execute|values)[\s(]", re.IGNORECASE
)
_SHORT_OPTIONS = {"sshpass": "-p", "mysql": "-p", "mysqldump": "-p", "mariadb": "-p", "curl": "-u", "wget": "-u"}


def redact_command(arguments: Sequence[str]) -> str:
    """The command line as one text, at most ``LONGEST`` characters, without what may be a secret or a literal."""
    shown: list[str] = []
    hide_next = False
    program = arguments[0].rpartition("/")[2] if arguments else ""
    short = _SHORT_OPTIONS.get(program)
    for argument in arguments:
        if hide_next:
            shown.append(REDACTION_HIDDEN)
            hide_next = False
        elif short is not None and argument.startswith(short) and argument != short:
            shown.append(short + REDACTION_HIDDEN)
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
    text = _USERINFO.sub(rf"\1:{REDACTION_HIDDEN}@", text)
    text = _TOKEN_HOST.sub(rf"\1{REDACTION_HIDDEN}@", text)
    text = _HEADER.sub(rf"\1{REDACTION_HIDDEN}", text)
    text = _BEARER.sub(rf"\1{REDACTION_HIDDEN}", text)
    text = _ASSIGNED.sub(rf"\1{REDACTION_HIDDEN}", text)
    statement = _STATEMENT.search(text)
    return text if statement is None else text[: statement.start()] + hide_literals(text[statement.start() :])


_SHOWN_AS_SPACE = frozenset("\t\n\v\f\r\x85\u2028\u2029")
# Controls, formats (bidi overrides, zero width), surrogates, private use, unassigned.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


def neutralize(text: str, limit: int | None = 300) -> str:
    """``text`` on one line, with control, bidi and invisible characters written out as ``\\x1b`` or ``\\u202e``.

    A text longer than ``limit`` characters is cut and says how long it was; None never cuts. White space of any
    length becomes one space. Printable characters, brackets included, stay as they are.
    """
    full = len(text)
    # Cut before the work: a client may send a name of a megabyte.
    shown = text if limit is None else text[: 4 * limit]
    safe = "".join(map(_safe, shown))
    line = " ".join(safe.split())
    if limit is None or (len(line) <= limit and full <= len(shown)):
        return line
    return f"{line[:limit].rstrip()}... ({full:,} characters)"


def _safe(character: str) -> str:
    if " " <= character <= "~":
        return character
    if character in _SHOWN_AS_SPACE:
        return " "
    if unicodedata.category(character) not in _UNSAFE:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
