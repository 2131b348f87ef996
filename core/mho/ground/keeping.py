"""Attributes that are changed for a while."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def keeping(objects: Iterable[Any], *names: str) -> Iterator[None]:
    """After the block these attributes of the objects are what they were before it."""
    before = [(thing, name, getattr(thing, name)) for thing in objects for name in names]
    try:
        yield
    finally:
        for thing, name, value in before:
            setattr(thing, name, value)
