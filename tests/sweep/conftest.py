"""The measure functions of these tests, importable by name."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def measures():
    """tests/sweep/measures.py under a name that worker processes cannot import, so that they find it by its file."""
    spec = importlib.util.spec_from_file_location("sweep_measures", Path(__file__).with_name("measures.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["sweep_measures"] = module
    spec.loader.exec_module(module)
    return module
