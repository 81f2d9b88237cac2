"""Reads tables of keys that a person wrote: TOML files and ``--set`` options.

Each value is checked when it is taken, and the keys that are left at the end are refused. An error contains the full
name of the key, the value, the rule and, for a file, the line.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from poolctl.errors import BadInput
from poolctl.units import parse_duration

T = TypeVar("T")


class TomlSource:
    """The origin of a table, which errors name. ``text``: of the file, ``overridden``: the keys that --set has set."""

    def __init__(self, name: str = "", text: str = "", overridden: Iterable[str] = ()) -> None:
        self.name = name
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
        return BadInput(f"{self._source.locate(name)}{name} = {_format_value(value)}: {rule}", hint=hint)

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

    def take_count_or_unlimited(self, key: str, default: int | None, *, least: int = 0) -> int | None:
        """Take a count, or None for "unlimited"."""
        if self.is_off(key, "unlimited"):
            return None
        return self.take_count(key, default or 0, least=least) if self.has(key) else self._take(key, default, int)

    def take_count(self, key: str, default: int, *, least: int = 0) -> int:
        """Take a whole number."""

        def check(value: object) -> int:
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError("must be a whole number")
            if value < least:
                raise ValueError(f"must be {least} or more")
            return value

        return self._take(key, default, check)

    def take_number(self, key: str, default: float, *, above: float = 0.0) -> float:
        """Take a number greater than ``above``."""

        def check(value: object) -> float:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError("must be a number")
            if not above < value < float("inf"):
                raise ValueError(f"must be more than {above:g}, and finite")
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
                raise ValueError(f"must be one of {', '.join(choices)}{_suggest(str(value), choices)}")
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
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file", hint="give the path of a scenario file, or none at all") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not text in UTF-8"
        raise BadInput(f"{path}: {reason}") from None
    try:
        return tomllib.loads(text), text
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path}: not a TOML file: {error}") from None


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
        table, place = _find_table(values, sections, assignment)
        table[last] = _toml_or_text(text.strip())
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


def _toml_or_text(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text


def _format_value(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _suggest(word: str, choices: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(choices), 1)
    return f"; did you mean {close[0]}?" if close else ""


_HEADER = re.compile(r"\s*\[(\[)?\s*([\w.\-\"]+)\s*\]")
_KEY = re.compile(r"\s*([\w.\-\"]+)\s*=")


def _find_line(text: str, key: str) -> int:
    """Return the line (from 1) of ``key`` in a TOML text, 0 if it is not there in a form that is recognized.

    tomllib keeps no positions. This is only for error messages: a key within an inline table is reported at the line
    of that table.
    """
    section, arrays = "", dict[str, int]()
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            section = header[2].replace('"', "")
            if header[1]:
                arrays[section] = arrays.get(section, -1) + 1
            for array, at in arrays.items():
                if section == array or section.startswith(f"{array}."):
                    section = f"{array}[{at}]{section[len(array) :]}"
            lines.setdefault(section, number)
        elif found := _KEY.match(line):
            name = found[1].replace('"', "")
            lines.setdefault(f"{section}.{name}" if section else name, number)
    while key and key not in lines:
        # "a.b[0]" lies within "a.b", and that within "a".
        key = key[: max(key.rfind("."), key.rfind("["), 0)]
    return lines.get(key, 0)
