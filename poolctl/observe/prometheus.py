"""Prometheus' text formats, parsed: 0.0.4, OpenMetrics with its exemplars and its ``# EOF``, and names in quotes.

https://prometheus.io/docs/instrumenting/exposition_formats/ and https://prometheus.io/docs/specs/om/open_metrics_spec/.
A line that cannot be read is reported by its number and does not affect the others. What the names mean is left to
``pool_metrics``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'\s*(?:([a-zA-Z_][a-zA-Z0-9_.]*)|"((?:[^"\\]|\\.)*)")\s*(=\s*"((?:[^"\\]|\\.)*)"\s*)?(,|(?=\}))')
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|Inf|NaN|inf|nan)")
_REST = re.compile(r"(?:\s+[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)?\s*(?:#.*)?")
"""A timestamp and an exemplar, which are ignored."""
_SHAPE = re.compile(
    rf"{_NAME.pattern}(?:\s*\{{(?:[^\"{{}}]|\"(?:[^\"\\]|\\.)*\")*\}}\s*|\s+){_NUMBER.pattern}{_REST.pattern}"
)
"""A line that is valid as far as matters for one whose metric is not wanted."""
_ESCAPES = {"n": "\n", "\\": "\\", '"': '"'}
_NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Series:
    """One line: a name with its labels, and the value. Dots in names become underscores, as older servers write."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Exposition:
    series: tuple[Series, ...]
    unreadable: tuple[int, ...]
    """Numbers of the lines that cannot be read, from 1."""


def parse(text: str, wanted: Callable[[str], bool] = lambda name: True) -> Exposition:
    """Parse the series of ``text`` whose names are ``wanted``; never raises.

    Lines of other names are only checked for their form.
    """
    series: list[Series] = []
    unreadable: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()
        if line.startswith("#"):
            if line.split() == ["#", "EOF"]:
                break
            continue
        if not line:
            continue
        name = _NAME.match(line)
        # One regular expression instead of a parse: a service writes thousands of lines, and ten of a pool.
        if name is not None and not wanted(name[0]) and _SHAPE.fullmatch(line) is not None:
            continue
        one = _parse_line(line)
        if one is None:
            unreadable.append(number)
        elif wanted(one.name):
            series.append(one)
    return Exposition(tuple(series), tuple(unreadable))


def _parse_line(line: str) -> Series | None:
    match = _NAME.match(line)
    name, at = (match[0], match.end()) if match else ("", 0)
    labels = _NO_LABELS
    while at < len(line) and line[at] in " \t":
        at += 1
    if at < len(line) and line[at] == "{":
        read = _parse_labels(line, at + 1)
        if read is None:
            return None
        quoted, labels, at = read
        name = name or quoted
    elif match and at == match.end():
        return None  # nothing between the name and the value
    while at < len(line) and line[at] in " \t":
        at += 1
    number = _NUMBER.match(line, at)
    if not name or number is None or _REST.fullmatch(line, number.end()) is None:
        return None
    return Series(_replace_dots(name), labels, float(number[0]))


def _parse_labels(line: str, at: int) -> tuple[str, dict[str, str], int] | None:
    """Parse the quoted name of the metric, if any, and the labels; also return the place behind the brace."""
    name = ""
    labels: dict[str, str] = {}
    while True:
        while at < len(line) and line[at] in " \t":
            at += 1
        if at < len(line) and line[at] == "}":
            return name, labels, at + 1
        match = _LABEL.match(line, at)
        if match is None:
            return None
        plain, quoted, assigned, value, _ = match.groups()
        if assigned:
            labels[_replace_dots(plain or _unescape(quoted))] = _unescape(value)
        elif quoted is not None and not name:
            name = _unescape(quoted)
        else:
            return None
        at = match.end()


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[0]), text) if "\\" in text else text


def _replace_dots(name: str) -> str:
    return name.replace(".", "_")
