"""Sweeps: one scenario for each combination of values of some keys.

Decides what ``--sweep KEY=VALUES`` means and which scenarios result from it. Runs nothing.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import prod
from typing import Any

from poolctl.errors import BadInput
from poolctl.pool import LIBRARIES
from poolctl.scenario.scenario import Scenario, parse_scenario
from poolctl.scenario.toml import TomlSource, override
from poolctl.scenario.variants import SECTION_OF, with_library
from poolctl.units import parse_duration

MOST_RUNS = 10_000
"""Most runs of one sweep, so that a typing error such as 1..1000000 is refused before it fills the memory."""

EXAMPLE = "for example --sweep pool.max_open=5..60:5 or --sweep load.instances=2,4,8"

_NUMBER = r"(\d+(?:\.\d+)?)\s*([a-zµ]*)"
_RANGE = re.compile(rf"{_NUMBER}\s*\.\.\s*{_NUMBER}(?:\s*:\s*{_NUMBER})?")
_LIKE_A_RANGE = re.compile(r"-?[\d.]+\s*[a-zµ]*\s*\.\.")


@dataclass(frozen=True, slots=True)
class Axis:
    """A key with its section, and its values in order, as they would be written after ``--set``."""

    key: str
    words: tuple[str, ...]

    @property
    def values(self) -> tuple[Any, ...]:
        """The values as a scenario file would give them: numbers, or text."""
        return tuple(_parse_value(word) for word in self.words)


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination: a word of each axis, and the scenario that they make."""

    words: tuple[str, ...]
    scenario: Scenario


class _SweptSource(TomlSource):
    """A source that names the option for keys that the sweep sets, and the file for all others."""

    def __init__(self, source: TomlSource, keys: Sequence[str]) -> None:
        super().__init__(source.name)
        self._source, self._keys = source, keys

    def locate(self, key: str) -> str:
        if any(key == swept or key.startswith(f"{swept}.") for swept in self._keys):
            return "--sweep "
        return self._source.locate(key)


def parse_axes(options: Sequence[str]) -> tuple[Axis, ...]:
    """Parse each ``KEY=VALUES`` into an axis. Raises BadInput, also for a grid of more than ``MOST_RUNS`` runs.

    VALUES are words and ranges, separated by commas. The range ``5..60`` counts in ones, ``5..60:5`` in steps, and
    ``10ms..50ms:10ms`` with units. A range contains its end only if a step falls on it.
    """
    axes = tuple(_parse_axis(option) for option in options)
    keys = [axis.key for axis in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise BadInput(f"--sweep {key}: is given twice", hint=f"write all its values after one --sweep {key}=")
        for other in keys:
            if key.startswith(f"{other}."):
                raise BadInput(f"--sweep {key}: is a part of {other}, which has a --sweep of its own")
    runs = prod(len(axis.words) for axis in axes)
    if runs > MOST_RUNS:
        sizes = " x ".join(f"{len(axis.words):,}" for axis in axes)
        product_text = f"{sizes} = {runs:,}" if len(axes) > 1 else sizes
        raise BadInput(f"--sweep: {product_text} runs, and {MOST_RUNS:,} is the most", hint="take larger steps")
    return axes


def make_grid(values: Mapping[str, Any], axes: Sequence[Axis], source: TomlSource) -> tuple[list[Cell], list[str]]:
    """Return every combination, the last axis changing fastest, and a sentence for each setting that was left out.

    Raises BadInput.
    """
    probe = copy.deepcopy(dict(values))
    swept = _SweptSource(source, [key for axis in axes for key in _assign(probe, f"{axis.key}={axis.words[0]}")])
    cells, notes = [], dict[str, None]()
    for words in product(*(axis.words for axis in axes)):
        changed: dict[str, Any] = copy.deepcopy(dict(values))
        # The library first: it drops settings that the library lacks, and must not drop what the sweep sets.
        for axis, word in sorted(zip(axes, words, strict=True), key=lambda pair: pair[0].key != "pool.kind"):
            if axis.key == "pool.kind" and word in LIBRARIES:
                changed, dropped = with_library(changed, word)[1:]
                notes.update(dict.fromkeys(dropped))
            else:
                _assign(changed, f"{axis.key}={word}")
        cells.append(Cell(words, parse_scenario(changed, swept)))
    return cells, list(notes)


def _parse_axis(option: str) -> Axis:
    key, equals, text = option.partition("=")
    key = key.strip()
    if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
        raise BadInput(f"--sweep {option!r}: must be section.key=values", hint=EXAMPLE)
    if "." not in key:
        if key not in SECTION_OF:
            raise BadInput(f"--sweep {option!r}: give the key with its section, such as pool.{key}", hint=EXAMPLE)
        key = f"{SECTION_OF[key]}.{key}"
    words: dict[str, None] = {}
    for part in _split(text):
        if not part:
            raise BadInput(f"--sweep {option!r}: a value is missing", hint=EXAMPLE)
        for word in _expand(key, part):
            if word in words:
                raise BadInput(f"--sweep {key}: {word} is given twice")
            words[word] = None
    return Axis(key, tuple(words))


def _split(text: str) -> Iterator[str]:
    """Split at commas, except within brackets or quotes."""
    depth, quote, part = 0, "", ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        else:
            depth += (character in "{[") - (character in "}]")
            if character == "," and not depth:
                yield part.strip()
                part = ""
                continue
        part += character
    yield part.strip()


def _expand(key: str, part: str) -> Iterator[str]:
    found = _RANGE.fullmatch(part)
    if found is None:
        if _LIKE_A_RANGE.match(part):
            raise BadInput(f"--sweep {key}={part}: a range is written FROM..TO or FROM..TO:STEP", hint=EXAMPLE)
        yield part
        return
    first, last, step, unit = _parse_range(key, part, found.groups())
    if step <= 0:
        raise BadInput(f"--sweep {key}={part}: the step must be more than 0")
    if first > last:
        raise BadInput(f"--sweep {key}={part}: the range ends before it begins", hint="write the smaller value first")
    steps = (last - first) // step
    if steps >= MOST_RUNS:
        raise BadInput(
            f"--sweep {key}={part}: {steps + 1:,} runs, and {MOST_RUNS:,} is the most", hint="take larger steps"
        )
    for number in range(steps + 1):
        value = first + number * step
        yield f"{value if value.denominator == 1 else format(float(value), '.12g')}{unit}"


def _parse_range(key: str, part: str, found: tuple[str | None, ...]) -> tuple[Fraction, Fraction, Fraction, str]:
    """Return first, last and step of a range as multiples of one unit, and that unit."""
    first, first_unit, last, last_unit, step, step_unit = (text or "" for text in found)
    if bool(first_unit) != bool(last_unit) or (step and bool(step_unit) != bool(last_unit)):
        raise BadInput(f"--sweep {key}={part}: give all numbers of a range a unit, or none", hint=EXAMPLE)
    if not step:
        if first_unit or "." in first + last:
            raise BadInput(
                f"--sweep {key}={part}: needs a step, only whole numbers count in ones",
                hint=f"{key}={part}:STEP, or write the values with commas between them",
            )
        step = "1"
    unit = step_unit or last_unit
    try:
        sizes = [_parse_unit(name) for name in (first_unit, last_unit, unit)] if unit else [Fraction(1)] * 3
    except ValueError as error:
        raise BadInput(f"--sweep {key}={part}: {error}") from None
    return Fraction(first) * sizes[0] / sizes[2], Fraction(last) * sizes[1] / sizes[2], Fraction(step), unit


def _parse_unit(unit: str) -> Fraction:
    # From the decimal text: the float 0.001 is not exactly a thousandth, and its multiples would miss the end.
    return Fraction(repr(parse_duration(f"1{unit}")))


def _assign(values: dict[str, Any], assignment: str) -> list[str]:
    try:
        return override(values, [assignment])
    except BadInput as error:
        raise BadInput(error.message.replace("--set", "--sweep", 1), hint=error.hint) from None


def _parse_value(word: str) -> Any:
    probe: dict[str, Any] = {}
    override(probe, [f"value={word}"])
    return probe["value"]
