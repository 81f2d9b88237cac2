"""A library or pooler whose configuration poolctl can write."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from poolctl.stacks.settings import PoolAdvice, PoolerAdvice


@dataclass(frozen=True, slots=True)
class Config:
    """A block that is ready to paste."""

    stack: str
    file: str
    """Name of the file that it belongs to."""
    text: str
    """Valid where it is pasted; ends with a newline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A library or pooler, and how its settings are written."""

    name: str
    """The name of the same library in scenario files."""
    library: str
    """Name and version whose documentation or source the block follows."""
    file: str
    comment: str = "#"
    """What begins a comment in ``file``."""
    takes: type[PoolAdvice] | type[PoolerAdvice] = PoolAdvice
    aliases: tuple[str, ...] = ()
    owner: str = "processes"
    """What has a pool of its own, as the first comment of a block counts it."""
    write: Callable[[Any], Iterator[str]]
    """Yields the lines, from an advice of the type in ``takes``."""

    @property
    def is_pooler(self) -> bool:
        """Whether it is a pooler between applications and server."""
        return self.takes is PoolerAdvice
