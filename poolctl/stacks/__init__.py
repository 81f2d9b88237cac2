"""Recommendations as configuration: one file for each library or pooler, in its own names and units."""

from poolctl.stacks.registry import STACKS, find_stack, render
from poolctl.stacks.settings import PoolAdvice, PoolerAdvice
from poolctl.stacks.stack import Config, Stack

__all__ = ["STACKS", "Config", "PoolAdvice", "PoolerAdvice", "Stack", "find_stack", "render"]
