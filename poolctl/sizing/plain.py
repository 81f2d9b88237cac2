"""Frozen dataclasses back from the plain values that ``dataclasses.asdict`` and JSON make of them."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

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
