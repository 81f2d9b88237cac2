"""What poolctl knows of a library or pooler whose configuration it can write."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from poolctl.stacks.settings import PoolAdvice, PoolerAdvice


@dataclass(frozen=True, slots=True)
class Config:
    """A block that is ready to paste."""

    stack: str
    file: str
    """Name of the file it belongs into."""
    text: str
    """Valid where it is pasted; ends with a newline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A library or pooler, and how its settings are spelled."""

    name: str
    """As the pool kind of the same library is called."""
    library: str
    """Name and version whose documentation or source the spelling follows."""
    file: str
    comment: str = "#"
    """What begins a line of comment in ``file``."""
    takes: type[PoolAdvice] | type[PoolerAdvice] = PoolAdvice
    aliases: tuple[str, ...] = ()
    write: Callable[[Any], Iterator[str]]
    """The lines, from an advice of the type that it ``takes``."""

    @property
    def is_pooler(self) -> bool:
        return self.takes is PoolerAdvice
