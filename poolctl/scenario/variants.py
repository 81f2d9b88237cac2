"""Variants of one scenario: the same arrivals, with one difference.

Decides what the words of ``--compare`` mean. Changes the values of a scenario file before they are checked, so that a
variant is refused with the same message as a file.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from poolctl.errors import BadInput
from poolctl.pool import LIBRARIES
from poolctl.scenario.scenario import VIAS
from poolctl.scenario.toml import override

DEFAULT_LEAK = 50
"""``--leak`` without a number: every 50th request never gives its connection back."""

SECTION_OF = {
    **dict.fromkeys(
        ("kind", "max_open", "max_idle", "min_idle", "max_lifetime", "max_idle_time", "acquire_timeout"), "pool"
    ),
    **dict.fromkeys(
        ("instances", "workers", "rate", "think", "hold", "query", "connections_per_request", "requests"), "load"
    ),
    **dict.fromkeys(("max_connections", "reserved", "cores", "via"), "database"),
    **dict.fromkeys(("every", "shape"), "leak"),
}
"""The section of a key that is written without one."""

Values = dict[str, Any]


class NamedValues(NamedTuple):
    """A variant: its name, the values of its scenario, and a sentence about each setting that was left out."""

    name: str
    values: Values
    notes: tuple[str, ...] = ()


def with_leak(values: Values, *, every: int | None = None, shape: str | None = None) -> Values:
    """Add a leak to a copy of ``values``. ``every`` and ``shape`` None: those of the scenario, else the defaults."""
    changed = copy.deepcopy(values)
    leak = changed.setdefault("leak", {})
    leak["every"] = every or leak.get("every") or DEFAULT_LEAK
    if shape:
        leak["shape"] = shape
    return changed


def without_leak(values: Values) -> Values:
    """Remove the leak from a copy of ``values``."""
    changed = copy.deepcopy(values)
    changed.setdefault("leak", {})["every"] = 0
    return changed


def with_library(values: Values, library: str) -> NamedValues:
    """Change the pool library in a copy of ``values``. Settings that the library lacks are left out and noted."""
    changed = copy.deepcopy(values)
    pool = changed.setdefault("pool", {})
    pool["kind"] = library
    dropped = [key for key in pool if key != "kind" and key not in LIBRARIES[library].keys]
    for key in dropped:
        del pool[key]
    notes = (f"{library}: {', '.join(dropped)} left out, the library has no such setting",) if dropped else ()
    return NamedValues(library, changed, notes)


def parse_variants(values: Values, words: str) -> list[NamedValues]:
    """Return the variants that ``words`` name, in that order.

    A word is ``leak``, ``correct``, a pool library or a pooler. After ``key=`` each word is a value of that key, until
    the next ``key=``. Raises BadInput.
    """
    variants = []
    for key, word in _split(words):
        if key:
            variants.append(_with_value(values, key, word))
        elif word == "leak":
            variants.append(NamedValues("leak", with_leak(values)))
        elif word == "correct":
            variants.append(NamedValues("correct", without_leak(values)))
        elif word in LIBRARIES:
            variants.append(with_library(values, word))
        elif word in VIAS:
            changed = copy.deepcopy(values)
            changed.setdefault("database", {})["via"] = word
            variants.append(NamedValues(word, changed))
        else:
            known = ["leak", "correct", *LIBRARIES, *(via for via in VIAS if via != "none")]
            raise BadInput(
                f"--compare {word!r}: there is no such variant", hint=f"{', '.join(known)}, or key=value,value,..."
            )
    _refuse_twins(variants)
    return variants


def _split(words: str) -> Iterable[tuple[str, str]]:
    key = ""
    for word in words.split(","):
        if "=" in word:
            key, _, word = (part.strip() for part in word.partition("="))
        if not word.strip():
            raise BadInput(f"--compare {words!r}: a word is missing")
        yield key, word.strip()


def _with_value(values: Values, key: str, value: str) -> NamedValues:
    if "." not in key and key not in SECTION_OF:
        raise BadInput(f"--compare {key}={value}: give the key with its section, such as pool.{key}")
    changed = copy.deepcopy(values)
    override(changed, [f"{key if '.' in key else f'{SECTION_OF[key]}.{key}'}={value}"])
    return NamedValues(f"{key}={value}", changed)


def _refuse_twins(variants: Sequence[NamedValues]) -> None:
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"--compare: {name} is given twice")
