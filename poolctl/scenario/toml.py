"""Reads tables of keys that a person wrote: TOML files and ``--set`` options.

Each value is checked when it is taken, and the keys that are left at the end are refused. An error contains the full
name of the key, the value, the rule and, for a file, the line.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain
from math import log10
from pathlib import Path
from typing import Any, TypeVar

from poolctl.errors import BadInput
from poolctl.safe_text import neutralize
from poolctl.units import MOST, parse_duration

T = TypeVar("T")

LARGEST_FILE = 1_000_000
"""Bytes. A scenario has a few thousand; a larger file is a mistake, and a device such as /dev/zero has no end."""

DEEPEST = 16
"""Most tables and arrays within each other. The deepest key of a scenario has 6."""


class TomlSource:
    """The origin of a table, which errors name. ``text``: of the file, ``overridden``: the keys that --set has set."""

    def __init__(self, name: str = "", text: str = "", overridden: Iterable[str] = ()) -> None:
        self.name = neutralize(name)
        self._text = text
        self._overridden = frozenset(overridden)

    def locate(self, key: str) -> str:
        """Return the words before a key in an error: "leak.toml, line 7: " or "--set "."""
        parts = key.split(".")
        if any(".".join(parts[:end]) in self._overridden for end in range(1, len(parts) + 1)):
            return "--set "
        line = _find_line(self._text, key)
        if line:
            return f"{self.name}, line {line}: "
        return f"{self.name}: " if self.name else ""


class TomlTable:
    """One table, from which each key is taken once. ``path``: its full name, "" for the top.

    The ``take_`` methods return the default if the key is absent or None, and raise BadInput for a wrong value.
    """

    def __init__(self, values: Mapping[str, Any], source: TomlSource, path: str = "") -> None:
        if not isinstance(values, Mapping):
            raise BadInput(f"{source.locate(path)}{path} = {_format_value(values)}: must be a table")
        self._values = dict(values)
        self._known: list[str] = []
        self._source = source
        self._path = path

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def has(self, key: str) -> bool:
        """Return True if the key is present, even with the value None, which means "off"."""
        return key in self._values

    def peek(self, key: str) -> Any:
        """Return the raw value without taking it, None if it is absent."""
        return self._values.get(key)

    def skip(self, key: str) -> None:
        """Take a key without reading it, so that an error can suggest its name."""
        self._known.append(key)
        self._values.pop(key, None)

    def refuse(self, key: str, value: object, rule: str, *, hint: str = "") -> BadInput:
        """Create the error for a value that breaks ``rule``. The caller raises it."""
        name = self._name(key)
        shown = _cut(neutralize(name))
        return BadInput(f"{self._source.locate(name)}{shown} = {_format_value(value)}: {rule}", hint=hint)

    def refuse_missing(self, key: str, rule: str, *, hint: str = "") -> BadInput:
        """Create the error for a key that is required. The caller raises it."""
        name = self._name(key)
        return BadInput(f"{self._source.locate(name)}{name}: {rule}", hint=hint)

    def with_values(self, values: Mapping[str, Any]) -> "TomlTable":
        """Return this table with ``values`` added, which come from another table."""
        return TomlTable(self._values | dict(values), self._source, self._path)

    def take_duration(self, key: str, default: float) -> float:
        """Take a duration, in seconds."""
        return self._take(key, default, parse_duration)

    def take_duration_or_off(self, key: str, default: float | None) -> float | None:
        """Take a duration, in seconds, or None for "off"."""
        if self.is_off(key):
            return None
        return self._take(key, default, parse_duration)

    def take_count_or_unlimited(self, key: str, default: int | None, *, least: int = 0, most: int = MOST) -> int | None:
        """Take a count, or None for "unlimited"."""
        if self.is_off(key, "unlimited"):
            return None
        if not self.has(key):
            return self._take(key, default, int)
        return self.take_count(key, default or 0, least=least, most=most)

    def take_count(self, key: str, default: int, *, least: int = 0, most: int = MOST) -> int:
        """Take a whole number from ``least`` to ``most``."""

        def check(value: object) -> int:
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError("must be a whole number")
            if value < least:
                raise ValueError(f"must be {least} or more")
            if value > most:
                raise ValueError(f"must be {most:,} or less")
            return value

        return self._take(key, default, check)

    def take_number(self, key: str, default: float, *, above: float = 0.0, most: float = MOST) -> float:
        """Take a number greater than ``above``, and at most ``most``."""

        def check(value: object) -> float:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError("must be a number")
            if not above < value < float("inf"):
                raise ValueError(f"must be more than {above:g}, and finite")
            if value > most:
                raise ValueError(f"must be {most:,.0f} or less")
            return float(value)

        return self._take(key, default, check)

    def take_share(self, key: str, default: float) -> float:
        """Take a number from 0 to 1."""

        def check(value: object) -> float:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError("must be a number from 0 to 1")
            return float(value)

        return self._take(key, default, check)

    def take_text(self, key: str, default: str) -> str:
        """Take a text."""

        def check(value: object) -> str:
            if not isinstance(value, str):
                raise ValueError("must be text in quotes")
            return value

        return self._take(key, default, check)

    def take_choice(self, key: str, default: str, choices: Collection[str]) -> str:
        """Take one of ``choices``."""

        def check(value: object) -> str:
            if not isinstance(value, str) or value not in choices:
                raise ValueError(f"must be one of {', '.join(choices)}{_suggest(value, choices)}")
            return value

        return self._take(key, default, check)

    def take_table(self, key: str) -> "TomlTable":
        """Take the table under ``key``, an empty one if it is absent."""
        return TomlTable(self._take(key, {}, lambda value: value), self._source, self._name(key))

    def take_tables(self, key: str) -> list["TomlTable"]:
        """Take the array of tables under ``key``, written [[key]]."""
        values: Any = self._take(key, [], lambda value: value)
        if not isinstance(values, list):
            raise self.refuse(key, values, f"must be an array of tables, written [[{self._name(key)}]]")
        return [TomlTable(value, self._source, f"{self._name(key)}[{at}]") for at, value in enumerate(values)]

    def take_rest(self) -> dict[str, Any]:
        """Take all remaining keys, for a table that is passed on to another program."""
        values, self._values = self._values, {}
        return values

    def finish(self) -> None:
        """Raise BadInput for a key that was not taken."""
        for key, value in self._values.items():
            raise self.refuse(
                key,
                value,
                f"there is no such key{_suggest(key, self._known)}",
                hint=f"keys here: {', '.join(dict.fromkeys(self._known))}",
            )

    def _take(self, key: str, default: T, check: Callable[[Any], T]) -> T:
        self._known.append(key)
        if key not in self._values:
            return default
        value = self._values.pop(key)
        if value is None:
            return default
        try:
            return check(value)
        except ValueError as error:
            raise self.refuse(key, value, str(error)) from None

    def is_off(self, key: str, word: str = "off") -> bool:
        """Return True, and take ``key``, if its value is ``word`` or None, which ``to_dict`` writes for it."""
        if not self.has(key) or self._values[key] not in (word, None):
            return False
        self._known.append(key)
        del self._values[key]
        return True

    def _name(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """Return the values and the text of a TOML file. Raises BadInput if it cannot be read or is not TOML."""
    shown = neutralize(str(path))
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise BadInput(f"{shown}: is larger than {LARGEST_FILE:,} bytes, too large for a file of keys")
        text = content.decode()
    except FileNotFoundError:
        raise BadInput(f"{shown}: no such file", hint="give the path of a scenario file, or none at all") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not text in UTF-8"
        raise BadInput(f"{shown}: {reason}") from None
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Not only TOMLDecodeError: Python refuses to read an integer of more than 4,300 digits, with a ValueError.
        raise BadInput(f"{shown}: not a TOML file: {_describe_toml_error(error)}") from None
    if _is_too_deep(values):
        raise BadInput(f"{shown}: tables and arrays are nested more than {DEEPEST} deep")
    return values, text


def override(values: dict[str, Any], assignments: Iterable[str]) -> list[str]:
    """Set ``section.key=value`` assignments in ``values``, and return the keys that were set.

    One of several tables [[service]] is named by its name: "service.api.pool.max_open". The returned keys are written
    as in errors ("service[0].pool.max_open"). A value that is TOML (30, 1.5, true, {...}) is read as TOML, any other
    as text ("250ms" needs no quotes). Raises BadInput.
    """
    keys = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key = key.strip()
        if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
            raise BadInput(
                f"--set {assignment!r}: must be section.key=value", hint="for example --set pool.max_open=10"
            )
        *sections, last = key.split(".")
        if len(sections) >= DEEPEST:
            raise BadInput(f"--set {_cut(assignment)!r}: tables are nested more than {DEEPEST} deep")
        table, place = _find_table(values, sections, assignment)
        table[last] = _toml_or_text(text.strip(), assignment)
        keys.append(".".join((*place, last)))
    return keys


def _find_table(values: dict[str, Any], sections: list[str], assignment: str) -> tuple[dict[str, Any], list[str]]:
    """Return the table under ``sections``, created if there is none, and its name as errors write it."""
    table: Any = values
    place: list[str] = []
    for section in sections:
        if isinstance(table, list):
            number = _find_by_name(table, section, assignment)
            table = table[number]
            place[-1] += f"[{number}]"
        else:
            table = table.setdefault(section, {})
            place.append(section)
        if not isinstance(table, dict) and not _have_names(table):
            raise BadInput(f"--set {assignment!r}: {section} is not a table")
    if isinstance(table, list):
        raise BadInput(
            f"--set {assignment!r}: {sections[-1]} is several tables, each with a name",
            hint=f"write {'.'.join(sections)}.NAME.section.key=value",
        )
    return table, place


def _have_names(tables: Any) -> bool:
    return isinstance(tables, list) and all(isinstance(table, dict) and "name" in table for table in tables)


def _find_by_name(tables: list[dict[str, Any]], name: str, assignment: str) -> int:
    """Return the index of the table called ``name`` in an array of tables."""
    names = [table["name"] for table in tables]
    if name not in names:
        raise BadInput(f"--set {assignment!r}: there is no {name}", hint=f"the names are: {', '.join(map(str, names))}")
    return names.index(name)


def _toml_or_text(text: str, assignment: str) -> Any:
    try:
        values = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, KeyError):
        return text
    except (ValueError, RecursionError) as error:
        raise BadInput(f"--set {_cut(assignment)!r}: {_describe_toml_error(error)}") from None
    if values.keys() != {"value"}:
        # A line end within the text began a key of its own.
        return text
    if _is_too_deep(values):
        raise BadInput(f"--set {_cut(assignment)!r}: tables and arrays are nested more than {DEEPEST} deep")
    return values["value"]


def _describe_toml_error(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"tables and arrays are nested more than {DEEPEST} deep"
    if isinstance(error, tomllib.TOMLDecodeError):
        return str(error)
    return "an integer has too many digits"


def _is_too_deep(values: object) -> bool:
    """Return True if ``values`` are nested more than ``DEEPEST`` deep.

    Level by level and not by recursion, which fails at the depth that this is to find.
    """
    level = [values]
    for _ in range(DEEPEST + 1):
        level = list(
            chain.from_iterable(
                one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)
            )
        )
        if not level:
            return False
    return True


def _format_value(value: object) -> str:
    if isinstance(value, str):
        # As TOML and JSON write it: a line end in the value must not end the message.
        return _cut(neutralize(json.dumps(value[:100], ensure_ascii=False)))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) > MOST * MOST:
        return f"about {'-' if value < 0 else ''}10^{int(value.bit_length() * log10(2))}"
    try:
        return _cut(neutralize(str(value)))
    except ValueError:
        # Within a table or array: Python refuses to write an integer of more than 4,300 digits.
        return "{...}"


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _suggest(word: object, choices: Iterable[str]) -> str:
    # Cut, because the comparison takes time that grows with the square of the length.
    close = difflib.get_close_matches(word[:100], list(choices), 1) if isinstance(word, str) else []
    return f"; did you mean {close[0]}?" if close else ""


_HEADER = re.compile(r"\s*\[(\[)?([^\[\]=#]+)\]")
_KEY = re.compile(r"\s*([^\s=\[\]{}#,][^=\[\]{}#,]*?)\s*=")
_NAME = re.compile(r"\"[^\"]*\"|'[^']*'|[\w-]+")


def _find_line(text: str, key: str) -> int:
    """Return the line (from 1) of ``key`` in a TOML text, 0 if it is not there in a form that is recognized.

    tomllib keeps no positions. This is only for error messages: a key within an inline table is reported at the line
    of that table.
    """
    lines: dict[str, int] = {}
    last: dict[str, int] = {}
    """Of each array of tables, the index of its last table so far."""
    section = ""
    in_string = False
    for number, line in enumerate(text.splitlines(), 1):
        was_in_string, in_string = in_string, in_string ^ bool((line.count('"""') + line.count("'''")) % 2)
        if was_in_string:
            # SQL in a multi-line string may look like keys.
            continue
        if header := _HEADER.match(line):
            *parents, name = _split_key(header[2])
            section = _join(_resolve(parents, last), name)
            if header[1]:
                last[section] = last.get(section, -1) + 1
                # An unknown array is named without an index in errors, its tables with one.
                lines.setdefault(section, number)
            section = _resolve([section], last)
            lines.setdefault(section, number)
        elif found := _KEY.match(line):
            lines.setdefault(_join(section, ".".join(_split_key(found[1]))), number)
    while key and key not in lines:
        # "a.b[0]" lies within "a.b", and that within "a".
        key = key[: max(key.rfind("."), key.rfind("["), 0)]
    return lines.get(key, 0)


def _split_key(text: str) -> list[str]:
    return [name.strip("\"'") for name in _NAME.findall(text)] or [""]


def _join(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name


def _resolve(names: Iterable[str], last: Mapping[str, int]) -> str:
    """Join ``names``, each that is an array of tables with the index of its last table."""
    path = ""
    for name in names:
        path = _join(path, name)
        if path in last:
            path += f"[{last[path]}]"
    return path
