"""Statements without the data in them, and the route that a sqlcommenter comment names.

Ground: the observers hide before they record, the diagnosis before it quotes.
"""

import re
from urllib.parse import unquote

ROUTE_TAGS = ("route", "http_route", "endpoint", "path", "url", "handler")
"""Tags of sqlcommenter and its relatives that say which request it was, in the order in which they are believed."""
KEPT_TAGS = frozenset({*ROUTE_TAGS, "action", "application", "controller", "db_driver", "framework", "job"})
"""Tags that name code and never data."""

_TAG = re.compile(r"([\w.%-]+)\s*=\s*'((?:[^'\\]|\\.)*)'")
_PLAIN_TAG = re.compile(r"\b([\w.]+):([^,*'\s]+)")
_COMMENT = re.compile(r"/\*(.*?)(?:\*/|$)", re.DOTALL)

_TOKEN = re.compile(
    r"""
      (?P<comment> /\*.*?(?:\*/|$) | --[^\n]* )
    | (?P<escaped> \b[eE]'(?:[^'\\]|\\.|'')*(?:'|\\?$) )
    | (?P<string>  \b(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*(?:'|$) | '(?:[^']|'')*(?:'|$) )
    | (?P<dollar>  \$(?P<tag>[A-Za-z_]\w*|)\$.*?(?:\$(?P=tag)\$|$) )
    | (?P<name>    "(?:[^"]|"")*(?:"|$) | [^\W\d][\w$]* | \$\d+ )
    | (?P<number>  (?:0[xXoObB][0-9a-fA-F_]+ | \d[\d_]*(?:\.[\d_]*)?(?:[eE][+-]?\d+)? | \.\d[\d_]*(?:[eE][+-]?\d+)?) )
    """,
    re.VERBOSE | re.DOTALL,
)


def hide_literals(sql: str) -> str:
    """``sql`` with "?" for every string and number, and without comments, but for tags that name code.

    A statement that the server cut off in the middle of a string loses the rest of it. Not a parser: what it does
    not know as a name, an operator or a keyword, it hides.
    """
    return _TOKEN.sub(_hidden, sql)


def _hidden(match: "re.Match[str]") -> str:
    if match["name"] is not None:
        return match[0]
    if match["comment"] is None:
        return "?"
    tags = [f"{key}='{value}'" for key, value in _TAG.findall(match[0]) if unquote(key).lower() in KEPT_TAGS]
    return f"/*{','.join(tags)}*/" if tags else ""


def route_of(query: str) -> str | None:
    """The route in ``query``'s sqlcommenter tags (``/*route='%2Fcheckout'*/``, also ``controller`` with ``action``,
    also ``key:value`` as marginalia writes it), decoded; None where it has none, or the server cut it off."""
    for comment in reversed(_COMMENT.findall(query)):
        tags = {unquote(key).lower(): unquote(value) for key, value in _TAG.findall(comment)}
        tags = tags or {key.lower(): unquote(value) for key, value in _PLAIN_TAG.findall(comment)}
        for name in ROUTE_TAGS:
            if tags.get(name):
                return tags[name]
        if tags.get("controller"):
            return "#".join(filter(None, (tags["controller"], tags.get("action"))))
        if tags.get("job"):
            return tags["job"]
    return None
