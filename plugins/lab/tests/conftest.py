"""Fixtures that tests of mho share, and measure functions that are importable by name."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from mho_kit.fixtures import device, hardware, pytest_generate_tests  # noqa: F401

torch.set_num_threads(1)  # two test processes with two threads each only wait for each other


@pytest.fixture(scope="session")
def measures():
    """measure/measures.py under a name that worker processes cannot import, so that they find it by its file."""
    spec = importlib.util.spec_from_file_location("sweep_measures", Path(__file__).with_name("measure") / "measures.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["sweep_measures"] = module
    spec.loader.exec_module(module)
    return module
