"""Frozen dataclasses to what JSON has, and back, by their type hints.

Decides how a value that JSON does not know is written, and how strictly one is read: a recording may have been written
by another version of poolctl, cut off, or edited. What the fields mean is left to the dataclasses.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def to_dict(value: Any) -> Any:
    """Convert a frozen dataclass, and all in it, to what JSON has; fields that have their default are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_dict(each)
            for field in dataclasses.fields(value)
            if (each := getattr(value, field.name)) != _get_default(field)
        }
    if isinstance(value, Mapping):
        return {key: to_dict(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [to_dict(each) for each in value]
    # JSON has no NaN and no infinity; a gauge with such a value has no meaning.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_dict(kind: Any, value: Any) -> Any:
    """Make the dataclass ``kind`` of what ``to_dict`` or ``dataclasses.asdict`` made of it.

    Keys that the dataclass does not have are ignored: a newer poolctl may have added them. Raises ValueError, with the
    name of the field, for a value of another type and for a field without default that is absent.
    """
    return _make_reader(kind)(value)


Reader = Callable[[Any], Any]
"""Turns one value of JSON into one of a given type. Raises ValueError."""


# Once a type: a recording of an hour has a million values, and looking up type hints costs more than reading one.
@cache
def _make_reader(kind: Any) -> Reader:
    if dataclasses.is_dataclass(kind):
        return _make_dataclass_reader(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return _make_tuple_reader(_make_reader(arguments[0]))
        return _make_pair_reader(tuple(map(_make_reader, arguments)))
    if origin is Literal:
        return _make_literal_reader(arguments)
    if origin in (Union, UnionType):
        (inner,) = (each for each in arguments if each is not NoneType)
        return _make_optional_reader(_make_reader(inner))
    if origin is not None:
        return _make_mapping_reader(int if arguments[0] is int else str, _make_reader(arguments[1]))
    return _make_scalar_reader(kind)


def _make_dataclass_reader(kind: Any) -> Reader:
    hints = get_type_hints(kind)
    readers = {field.name: _make_reader(hints[field.name]) for field in dataclasses.fields(kind)}
    needed = {field.name for field in dataclasses.fields(kind) if _get_default(field) is dataclasses.MISSING}

    def read(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError(f"an object was expected, not {_name_type(value)}")
        if missing := sorted(needed - value.keys()):
            raise ValueError(f"{missing[0]} is missing")
        found = {}
        for name, each in value.items():
            if name in readers:
                try:
                    found[name] = readers[name](each)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
        return kind(**found)

    return read


def _make_tuple_reader(inner: Reader) -> Reader:
    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError(f"a list was expected, not {_name_type(value)}")
        return tuple(inner(each) for each in value)

    return read


def _make_pair_reader(inner: tuple[Reader, ...]) -> Reader:
    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or len(value) != len(inner):
            raise ValueError(f"a list of {len(inner)} was expected, not {_name_type(value)}")
        return tuple(reader(each) for reader, each in zip(inner, value, strict=True))

    return read


def _make_mapping_reader(key: Callable[[str], Any], inner: Reader) -> Reader:
    def read(value: Any) -> dict[Any, Any]:
        if not isinstance(value, Mapping):
            raise ValueError(f"an object was expected, not {_name_type(value)}")
        return {key(name): inner(each) for name, each in value.items()}

    return read


def _make_optional_reader(inner: Reader) -> Reader:
    return lambda value: None if value is None else inner(value)


def _make_literal_reader(allowed: tuple[Any, ...]) -> Reader:
    def read(value: Any) -> Any:
        if value not in allowed:
            raise ValueError(f"{value!r} is none of {', '.join(map(str, allowed))}")
        return value

    return read


def _make_scalar_reader(kind: type[Any]) -> Reader:
    def read(value: Any) -> Any:
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            # Python's json reads 1e999 as infinity.
            if not math.isfinite(number):
                raise ValueError("the number is too large")
            return number
        # True is an int to Python, and not to JSON.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ValueError(f"{_TYPE_NAMES[kind]} was expected, not {_name_type(value)}")
        return value

    return read


_TYPE_NAMES: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def _name_type(value: Any) -> str:
    if value is None:
        return "null"
    kind: Any = type(value)
    return _TYPE_NAMES.get(kind, "something else")


def _get_default(field: "dataclasses.Field[Any]") -> Any:
    """Return the default of a field, MISSING without one."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
