"""Makes text that a client or server controls harmless to print: on a terminal, in XML, on one line.

Decides what a foreign text may contain. Rich markup needs no work here: the console never interprets any.
"""

import unicodedata

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
