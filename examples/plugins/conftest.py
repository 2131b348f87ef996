"""Example plugins are tested as their authors would, but without installing them: each folder is put on the path."""

import sys
from pathlib import Path

import pytest

from mho.config import registry

for project in Path(__file__).parent.glob("*/pyproject.toml"):
    sys.path.append(str(project.parent))


@pytest.fixture(autouse=True)
def own_registry():
    """What an example registers is forgotten after its test."""
    with registry.using(registry.Registry()) as fresh:
        yield fresh
