"""Variants of one scenario: the same arrivals, and one thing different.

Decides what the words of ``--compare`` mean. Works on the values of a scenario file, before they are checked, so
that a variant is refused with the same words as a file.
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
"""Where a key belongs that is written without its section."""

Values = dict[str, Any]


class NamedValues(NamedTuple):
    """A variant: its name, the values of its scenario, and what had to be left out of it."""

    name: str
    values: Values
    notes: tuple[str, ...] = ()


def with_leak(values: Values, *, every: int | None = None, shape: str | None = None) -> Values:
    """``values`` with a leak: the scenario's own, or the default where it has none."""
    changed = copy.deepcopy(values)
    leak = changed.setdefault("leak", {})
    leak["every"] = every or leak.get("every") or DEFAULT_LEAK
    if shape:
        leak["shape"] = shape
    return changed


def without_leak(values: Values) -> Values:
    changed = copy.deepcopy(values)
    changed.setdefault("leak", {})["every"] = 0
    return changed


def with_kind(values: Values, kind: str) -> NamedValues:
    """``values`` on another pool. Settings that it does not have are left out, and said to be."""
    changed = copy.deepcopy(values)
    pool = changed.setdefault("pool", {})
    pool["kind"] = kind
    dropped = [key for key in pool if key != "kind" and key not in LIBRARIES[kind].keys]
    for key in dropped:
        del pool[key]
    notes = (f"{kind}: {', '.join(dropped)} left out, the library has no such setting",) if dropped else ()
    return NamedValues(kind, changed, notes)


def parse_variants(values: Values, words: str) -> list[NamedValues]:
    """The variants that ``words`` ask for, in that order.

    ``leak``, ``correct``, the name of a pool or of a pooler stand for themselves; after ``key=`` every word is a
    value of that key, up to the next ``key=``. Raises BadInput.
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
            variants.append(with_kind(values, word))
        elif word in VIAS:
            changed = copy.deepcopy(values)
            changed.setdefault("database", {})["via"] = word
            variants.append(NamedValues(word, changed))
        else:
            known = ["leak", "correct", *LIBRARIES, *(via for via in VIAS if via != "none")]
            raise BadInput(f"--compare {word!r}: is no variant", hint=f"{', '.join(known)}, or key=value,value,...")
    _refuse_twins(variants)
    return variants


def _split(words: str) -> Iterable[tuple[str, str]]:
    key = ""
    for word in words.split(","):
        if "=" in word:
            key, _, word = (part.strip() for part in word.partition("="))
        if not word.strip():
            raise BadInput(f"--compare {words!r}: has an empty word")
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
            raise BadInput(f"--compare: {name} is asked for twice")
