"""Frozen dataclasses as what JSON has, and back, by their type hints."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints


def to_dict(value: Any) -> Any:
    """A frozen dataclass, and all in it, as what JSON has; fields that have their default are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_dict(each)
            for field in dataclasses.fields(value)
            if (each := getattr(value, field.name)) != _default(field)
        }
    if isinstance(value, Mapping):
        return {key: to_dict(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [to_dict(each) for each in value]
    # JSON has no NaN and no infinity: such a gauge says nothing.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_dict(kind: Any, value: Any) -> Any:
    """The dataclass ``kind`` that ``to_dict`` made ``value`` of. Keys that it does not know are left out.

    Raises ValueError, naming the field, for what has another type.
    """
    return _reader(kind)(value)


Reader = Callable[[Any], Any]


@cache
def _reader(kind: Any) -> Reader:
    """What turns JSON into ``kind``: a dataclass, a scalar, a tuple[X, ...], a Mapping[str, X], X | None, a Literal."""
    if dataclasses.is_dataclass(kind):
        return _dataclass_reader(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        return _tuple_reader(_reader(arguments[0]))
    if origin is Literal:
        return _literal_reader(arguments)
    if origin in (Union, UnionType):
        (inner,) = (each for each in arguments if each is not NoneType)
        return _optional_reader(_reader(inner))
    if origin is not None:
        return _mapping_reader(int if arguments[0] is int else str, _reader(arguments[1]))
    return _scalar_reader(kind)


def _dataclass_reader(kind: Any) -> Reader:
    hints = get_type_hints(kind)
    readers = {field.name: _reader(hints[field.name]) for field in dataclasses.fields(kind)}
    needed = {field.name for field in dataclasses.fields(kind) if _default(field) is dataclasses.MISSING}

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"an object was expected, not {_kind(value)}")
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


def _tuple_reader(inner: Reader) -> Reader:
    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"a list was expected, not {_kind(value)}")
        return tuple(inner(each) for each in value)

    return read


def _mapping_reader(key: Callable[[str], Any], inner: Reader) -> Reader:
    def read(value: Any) -> dict[Any, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"an object was expected, not {_kind(value)}")
        return {key(name): inner(each) for name, each in value.items()}

    return read


def _optional_reader(inner: Reader) -> Reader:
    return lambda value: None if value is None else inner(value)


def _literal_reader(allowed: tuple[Any, ...]) -> Reader:
    def read(value: Any) -> Any:
        if value not in allowed:
            raise ValueError(f"{value!r} is none of {', '.join(map(str, allowed))}")
        return value

    return read


def _scalar_reader(kind: type[Any]) -> Reader:
    def read(value: Any) -> Any:
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if not math.isfinite(number):
                raise ValueError("the number is too large")
            return number
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ValueError(f"{_NAMES[kind]} was expected, not {_kind(value)}")
        return value

    return read


_NAMES: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    kind: Any = type(value)
    return _NAMES.get(kind, "something else")


def _default(field: "dataclasses.Field[Any]") -> Any:
    """The default of a field, MISSING without one."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


T = TypeVar("T")


def rebuilt(cls: type[T], values: Mapping[str, Any]) -> T:
    """A ``cls`` from a table of its fields; those that are absent take their defaults.

    Raises TypeError for a field that ``cls`` does not have or that has no default and is absent.
    """
    hints = get_type_hints(cls)
    known = {field.name for field in fields(cls)}  # type: ignore[arg-type]  # T is a dataclass here
    return cls(**{key: _value(hints[key], value) if key in known else value for key, value in values.items()})


def _value(hint: Any, value: Any) -> Any:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        real = [part for part in parts if part is not NoneType]
        return None if value is None else _value(real[0], value) if len(real) == 1 else value
    if origin is tuple:
        kinds = parts[:1] * len(value) if len(parts) == 2 and parts[1] is Ellipsis else parts
        return tuple(_value(kind, item) for kind, item in zip(kinds, value, strict=True))
    if is_dataclass(hint) and isinstance(value, Mapping):
        return rebuilt(hint, value)  # type: ignore[arg-type]  # a class, as every type hint here is
    return value
