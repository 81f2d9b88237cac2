"""Text that other people wrote, made safe to keep and to show.

Names, statements, command lines and error messages come from clients and servers, and may hold anything. Four rules,
each a pure function:

- ``hide_secrets`` takes passwords and tokens out of any text; ``redact_command`` does so for the arguments of a
  process. They hide a word too many rather than one too few: a command line is shown to recognize a process, and its
  first words are enough for that.
- ``hide_literals`` takes the data of people (strings, numbers, comments) out of a SQL text. The text may be cut
  anywhere (track_activity_query_size), and may be no SQL at all: what may be a literal is taken for one. The lexical
  rules are those of PostgreSQL's scan.l.
- ``find_route`` reads the place in a program that a statement's comment names: sqlcommenter (``/*key='value',...*/``,
  URL-encoded) and Rails' older ``/*key:value,...*/``.
- ``neutralize`` makes a text harmless on a terminal, in XML, and on one line. Rich markup needs no work here: poolctl's
  console never interprets any.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise
from urllib.parse import unquote

HIDDEN = "***"
"""What stands in place of a secret."""

LONGEST = 300
"""Characters that are kept of a command line."""

_LONGEST_ARGUMENT = 4096
_LONGEST_TEXT = 20_000
"""Characters that are searched for secrets. The patterns below look ahead from many places of a text, so their time
grows with the square of its length, and a client chooses the length."""

_SECRET_WORD = (
    r"(?:pass(?:w(?:or)?d|phrase|code)?(?!file)|pwd|secret|token|credentials?|api[-_.]?key|access[-_.]?key"
    r"|private[-_.]?key)"
)
_QUOTED = r"""(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.|'')*'?)"""
# libpq ends a value without quotes at white space, unless a backslash stands before it. Behind a closing quote a shell
# appends what follows; a comma or a bracket belongs to the program or JSON text around the value.
_VALUE = rf"""(?:{_QUOTED}(?:[^\s,)}}\]&;"']\S*)?|(?:\\.|[^\s"'\\])(?:\\.|[^\s\\])*\\?)"""
# What is hidden already stays as it is, so that a text may be filtered twice.
_NOT_HIDDEN = rf"(?!{re.escape(HIDDEN)}(?:[\s\"'`()\[\]{{}}:;,&]|$))"
# A colon followed by digits is a port, as in ://host:5432/db, unless an @ comes later in the same word or in the next.
_PORT = r"\d{1,5}(?:[/?,\s\"')\]]|:\s|$)(?!\S*@)"
_USERINFO = re.compile(
    rf"(:/{{1,3}}(?!\[)[^\s:@/\"']{{0,100}}):(?!{_PORT})(?:\S{{0,4096}}@|[^\s@]+[^@]{{0,200}}@|[^\s\"']+)"
)
_BARE_USERINFO = re.compile(r"((?<![\w/])[^\s:@/\"'=(\[]{1,100}):[^\s:/]\S{0,4096}@(?=[\w\[])")
"""user:password@host without a scheme, as it comes from a connection string that was cut or mistyped."""
_TOKEN_HOST = re.compile(r"(?i)(\bhttps?://)[^\s/@\"']+@")
_HEADER = re.compile(rf"(?i)(authorization[\"']?\s{{0,4}}[=:]\s{{0,4}}(?:\w{{1,20}}\s{{1,4}})?){_VALUE}")
_BEARER = re.compile(r"(?i)(\b(?:bearer|basic)\s{1,4})\S+")
_ASSIGNED = re.compile(rf"(?i)({_SECRET_WORD}[\w.-]{{0,40}}[\"']?\s{{0,4}}[=:]\s{{0,4}}){_NOT_HIDDEN}{_VALUE}")
# A value without quotes ends at the first blank for libpq, but not for the person who pasted a password with blanks.
# What follows is hidden too, up to the next key=, an option, a quote, a bracket, or the colon before the message.
_TAIL = re.compile(
    rf"(?i)(\b(?:ssl)?passw(?:or)?d\s{{0,4}}=\s{{0,4}}{re.escape(HIDDEN)})"
    r"(?:[ \t]{1,4}(?![\w.-]{1,40}\s{0,4}=|-)[^\s\"'()\[\]{}:]+)+"
)
_OPTION = re.compile(r"(?i)(--[\w-]{0,40}pass(?:word|wd|phrase)?\s+)(?!-)\S+")

_SECRET_OPTION = re.compile(rf"(?i){_SECRET_WORD}|^--?(?:set)?cookie$")
"""Erlang's cookie is the password of a node."""
_SHORT_OPTIONS = {"sshpass": "-p", "mysql": "-p", "mysqldump": "-p", "mariadb": "-p", "curl": "-u", "wget": "-u"}
_STATEMENT = re.compile(
    r"\b(?:select|insert\s+into|update|delete\s+from|merge\s+into|copy|call|execute|values)[\s(]", re.IGNORECASE
)


def hide_secrets(text: str) -> str:
    """Replace every password and token in ``text`` by ``HIDDEN``.

    Known are the password of a URI with any character in it, values of ``password``, ``sslpassword`` and the like in
    all of libpq's quotings, options, HTTP headers, and JSON. A text longer than ``_LONGEST_TEXT`` is cut.
    """
    if len(text) > _LONGEST_TEXT:
        text = text[:_LONGEST_TEXT] + "..."
    text = _USERINFO.sub(_hide_userinfo, text)
    text = _BARE_USERINFO.sub(rf"\1:{HIDDEN}@", text)
    text = _TOKEN_HOST.sub(rf"\1{HIDDEN}@", text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    text = _OPTION.sub(rf"\1{HIDDEN}", text)
    text = _ASSIGNED.sub(rf"\1{HIDDEN}", text)
    return _TAIL.sub(r"\1", text)


def hide_typed(text: str, words: Sequence[str]) -> str:
    """Replace what ``hide_secrets`` does, and whatever in ``words``, the command line, may be a password.

    Where an argument ends is known, so a password of it is found whole, also with blanks, quotes and brackets in it.
    """
    for word in words:
        for found in (found for pattern in _TYPED for found in pattern.finditer(word)):
            # A message may hold a part, such as the folder of a path; a part of one or two letters is in any word.
            pieces = [piece for piece in re.split(r"[\s/&@'\"\\,;?#]+", found[1]) if len(piece) > 2]
            for piece in sorted({found[1], *pieces}, key=len, reverse=True):
                if not _OTHER_KEY.match(piece):
                    text = text.replace(piece, HIDDEN).replace(repr(piece)[1:-1], HIDDEN)
    return hide_secrets(text)


# password= first: a URI may have an @ in it, which the other would take for the end of a password.
_TYPED = (
    re.compile(r"(?is)(?:pass(?:word|wd)?|pwd)\s*=\s*(.{3,})"),
    re.compile(r"(?s)(?:^|[/:=])[^\s:@/=]{0,100}:(?!//)(.{3,})@"),
)
_OTHER_KEY = re.compile(r"(?!.*pass)\w+\s*=")
"""Another key of the connection string, behind the password."""


def _hide_userinfo(found: "re.Match[str]") -> str:
    return f"{found[1]}:{HIDDEN}" + ("@" if found[0].endswith("@") else "")


def redact_command(arguments: Sequence[str]) -> str:
    """Join a command line, at most ``LONGEST`` characters of it, without secrets and without literals of SQL.

    Of Java, Erlang, Python, Node, Ruby, Perl and PHP the program comes first: the main class or archive, the release,
    the module or script. The options of the runtime are left out.
    """
    shown: list[str] = []
    hide_next = False
    program = arguments[0].rpartition("/")[2] if arguments else ""
    short = _SHORT_OPTIONS.get(program)
    arguments = _skip_runtime_options(program, arguments)
    for argument in arguments:
        if hide_next:
            shown.append(HIDDEN)
            hide_next = False
        elif short is not None and argument.startswith(short) and argument != short:
            shown.append(short + HIDDEN)
        else:
            hide_next = argument == short or _is_secret_option(argument)
            shown.append(_redact_argument(argument))
        if sum(map(len, shown)) > LONGEST:
            break
    text = (
        " ".join(part for part in shown if part).encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()
    )
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


_RUNTIMES = {
    "java": "-cp -classpath --class-path -p --module-path --upgrade-module-path --add-modules --limit-modules"
    " --add-opens --add-exports --add-reads --patch-module",
    "python": "-X -W",
    "node": "-r --require --import --loader --experimental-loader -C --conditions --env-file --env-file-if-exists"
    " --watch-path",
    "ruby": "-I -r -C -E",
    "perl": "-I",
    "php": "-c -d -z",
}
"""Runtimes whose own options stand before the program that they run, and the ones whose value is the next argument."""

_PROGRAM_OPTIONS = frozenset(["-jar", "-m", "--module", "-c", "-e", "-E", "--eval", "-r", "-f", "-S", "-"])
"""Options that bring the program, or the way to find it, where they are none of those."""
_ERLANG_RELEASE = ("-name", "-sname", "-boot", "-s", "-run", "-eval")
_ERLANG_PROGRAM = "-extra"
"""What is behind it belongs to the program: Elixir names its script there."""


def _skip_runtime_options(program: str, arguments: Sequence[str]) -> list[str]:
    """Return a command line without the options of its runtime, which fill a line before the program is named."""
    if program.startswith("beam"):
        return _keep_release(arguments)
    runtime = re.fullmatch(rf"({'|'.join(_RUNTIMES)})(?:js)?[\d.]*", program)
    options = _RUNTIMES[runtime[1]].split() if runtime is not None else None
    at = 1
    # Java reads options from a file, which @ names.
    while options is not None and at < len(arguments) and arguments[at].startswith(("-", "@")):
        if arguments[at] in _PROGRAM_OPTIONS.difference(options):
            break
        at += 2 if arguments[at] in options else 1
    # Options alone, or a runtime without a program: all of it is what there is.
    if options is None or at >= len(arguments) or at == 1:
        return list(arguments)
    return [arguments[0], "...", *arguments[at:]]


def _keep_release(arguments: Sequence[str]) -> list[str]:
    """Return the node's name, the boot script of its release, and what it starts, of a command line of Erlang."""
    end = arguments.index(_ERLANG_PROGRAM) if _ERLANG_PROGRAM in arguments else len(arguments)
    kept = [word for flag, value in pairwise(arguments[:end]) if flag in _ERLANG_RELEASE for word in (flag, value)]
    kept += arguments[end:]
    return [arguments[0], "...", *kept] if kept else list(arguments)


def _is_secret_option(argument: str) -> bool:
    """Return True for an option whose value, a secret, comes as the next argument."""
    is_option = argument.startswith("-") and len(argument) < LONGEST and not re.search(r"[=:\s]", argument)
    return is_option and _SECRET_OPTION.search(argument) is not None


def _redact_argument(text: str) -> str:
    if len(text) > _LONGEST_ARGUMENT:
        # The @ behind a password may be among what is cut off: then the rest of the word is taken for one.
        text = text[:_LONGEST_ARGUMENT] + "@"
    text = hide_secrets(text)
    statement = _STATEMENT.search(text)
    return text if statement is None else text[: statement.start()] + hide_literals(text[statement.start() :])


_STRING, _ANY_NUMBER = "'...'", "?"
_REST = "..."
"""What stands for the rest of a text in which strings can no longer be separated from what is between them."""

_KEPT_TAGS = frozenset(
    {
        *("app", "application", "service", "framework", "db_driver"),
        *("route", "controller", "action", "job", "handler", "view", "func", "function"),
    }
)
"""Names of places in a program. Other tags may hold anything: trace ids, users, parameters."""

_LONGEST_TAG = 200
_TAG = re.compile(r"\s*([\w.%-]{1,60})(?:='((?:[^'\\]|\\.)*)'|:([^,'=*]*))\s*(?:,|$)", re.DOTALL)

_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"[^\W\d][\w$]*")
# All that follows a digit without a break belongs to it: 1e-5, 0xFF, 1_000, and junk such as 12abc.
_NUMBER = re.compile(r"\.?\d(?:[eE][+-]\d|[\w.])*")
_PARAMETER = re.compile(r"\$\d+")
_DOLLAR_QUOTE = re.compile(r"\$(?:[^\W\d]\w*)?\$")
_LINE_END = re.compile(r"[\r\n]")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_PREFIXES = frozenset({"e", "b", "x", "n", "u&"})


def hide_literals(query: str) -> str:
    """Replace every string in ``query`` by ``'...'`` and every number by ``?``, and drop comments but for known tags.

    Names in double quotes and parameters ($1) stay. Hiding twice changes nothing.
    """
    kept: list[str] = []
    for shown, _ in _split(query):
        # Two strings side by side, of which one had a prefix, would become one with a quote in it; U and & a prefix.
        if shown.startswith("'") and kept and kept[-1].endswith(("'", "&")):
            kept.append(" ")
        if shown:
            kept.append(shown)
    return "".join(kept).strip()


def find_route(query: str | None) -> str | None:
    """Return the place in the program that a statement's tags name.

    A route comes first, then controller#action, then a job or function. None without tags, and where the server cut
    them off.
    """
    if query is None or "/*" not in query:
        return None
    tags: dict[str, str] = {}
    for _, comment in _split(query):
        tags |= _parse_tags(comment)
    if route := tags.get("route"):
        return route
    if controller := tags.get("controller"):
        action = tags.get("action")
        return f"{controller}#{action}" if action else controller
    found = (tags.get(key) for key in ("action", "job", "handler", "view", "func", "function"))
    return next((value for value in found if value), None)


def _split(query: str) -> Iterator[tuple[str, str]]:
    """Split a text into its parts: what may be shown of each, and the comment that the part is, else ""."""
    at, end = 0, len(query)
    while at < end:
        start = query[at]
        if query.startswith("/*", at):
            at, before = _find_comment_end(query, at), at
            yield _keep_tags(query[before:at]), query[before:at]
            continue
        if query.startswith("--", at):
            line_end = _LINE_END.search(query, at)
            at = end if line_end is None else line_end.start()
            continue
        if start == "'":
            piece, at = _read_string(query, at, escapes=False)
        elif start == '"':
            at, before = _find_name_end(query, at), at
            piece = query[before:at]
        elif start == "$":
            piece, at = _read_dollar(query, at)
        elif start.isdigit() or (start == "." and query[at + 1 : at + 2].isdigit()):
            found = _NUMBER.match(query, at)
            piece, at = _ANY_NUMBER, found.end() if found else at + 1
        elif word := _WORD.match(query, at):
            piece, at = _read_word(query, word)
        elif space := _SPACE.match(query, at):
            piece, at = space[0], space.end()
        else:
            piece, at = start, at + 1
        yield piece, ""


def _read_word(query: str, word: "re.Match[str]") -> tuple[str, int]:
    """Read a name or keyword, or a string with a prefix such as E'...' or U&'...'."""
    text, at = word[0], word.end()
    if text.lower() == "u" and query.startswith("&'", at):
        text, at = text + "&", at + 1
    if text.lower() in _PREFIXES and query.startswith("'", at):
        return _read_string(query, at, escapes=text.lower() == "e")
    return text, at


def _read_string(query: str, at: int, *, escapes: bool) -> tuple[str, int]:
    stop = _find_string_end(query, at, escapes=escapes)
    return (_STRING + _REST, len(query)) if stop is None else (_STRING, stop)


def _find_string_end(query: str, at: int, *, escapes: bool) -> int | None:
    r"""Return the place behind the string that begins at ``at``; the end of the text when it is not closed.

    None where a backslash stands before a quote: standard_conforming_strings decides whether that escapes the quote,
    and the text does not show the setting.
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


def _find_name_end(query: str, at: int) -> int:
    close = query.find('"', at + 1)
    return len(query) if close < 0 else close + 1


def _find_comment_end(query: str, at: int) -> int:
    """Return the place behind a comment, which may hold others."""
    depth = 0
    for edge in _COMMENT_EDGE.finditer(query, at):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(query)


def _read_dollar(query: str, at: int) -> tuple[str, int]:
    """Read a parameter, a dollar-quoted string, or a lone dollar."""
    if parameter := _PARAMETER.match(query, at):
        return parameter[0], parameter.end()
    if opened := _DOLLAR_QUOTE.match(query, at):
        close = query.find(opened[0], opened.end())
        return _STRING, len(query) if close < 0 else close + len(opened[0])
    return "$", at + 1


def _parse_tags(comment: str) -> dict[str, str]:
    """Return the tags of a complete comment, decoded; none unless it consists of nothing else."""
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


def _keep_tags(comment: str) -> str:
    """Keep of a comment the tags that name a place in the program."""
    kept = {key: value for key, value in _parse_tags(comment).items() if key in _KEPT_TAGS}
    if not kept:
        return " "
    return "/*" + ",".join(f"{key}='{_encode_tag(value)}'" for key, value in kept.items()) + "*/"


def _encode_tag(value: str) -> str:
    """Encode the characters that would end the tag or the comment."""
    for character in "%'\\*":
        value = value.replace(character, f"%{ord(character):02X}")
    return value


_SHOWN_AS_SPACE = frozenset("\t\n\v\f\r\x85\u2028\u2029")
# Controls, formats (bidi overrides, zero width), surrogates, private use, unassigned.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


def neutralize(text: str, limit: int | None = 300) -> str:
    """Put ``text`` on one line, with control, bidi and invisible characters written out as ``\\x1b`` or ``\\u202e``.

    A text longer than ``limit`` characters is cut and says how long it was; None never cuts. White space of any
    length becomes one space. Printable characters, brackets included, stay as they are.
    """
    full = len(text)
    # Cut before the work: a client may send a name of a megabyte.
    shown = text if limit is None else text[: 4 * limit]
    safe = "".join(map(_escape, shown))
    line = " ".join(safe.split())
    if limit is None or (len(line) <= limit and full <= len(shown)):
        return line
    return f"{line[:limit].rstrip()}... ({full:,} characters)"


def _escape(character: str) -> str:
    if " " <= character <= "~":
        return character
    if character in _SHOWN_AS_SPACE:
        return " "
    if unicodedata.category(character) not in _UNSAFE:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
