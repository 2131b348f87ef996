"""Fixtures for tests: devices, and small hardware descriptions made in Python. A conftest.py imports them."""

import importlib.util

import pytest
import torch

import mho


def needs(*distributions):
    """A mark: the test skips visibly where one of these plugins (mho-pcm) is not installed."""
    missing = [d for d in distributions if importlib.util.find_spec(d.replace("-", "_")) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def pytest_generate_tests(metafunc):
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", ["cpu", "cuda", "mps"], indirect=True)


@pytest.fixture
def device(request):
    """Code that is meant for any device runs on each that is there; the others skip visibly."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present[request.param]:
        pytest.skip(f"no {request.param} on this machine")
    return torch.device(request.param)


@pytest.fixture
def hardware():
    """hardware(TILE_YAML) -> Hardware with one tile; `extra` adds top-level keys."""

    def make(tile: str = "rows: 512", extra: str = "") -> mho.Hardware:
        body = "".join(f"    {line}\n" for line in tile.splitlines())
        return mho.Hardware.from_yaml(f"mho: 1\ndefault: t\ntiles:\n  t:\n{body}{extra}\n")

    return make
