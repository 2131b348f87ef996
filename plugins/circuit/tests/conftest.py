"""A tile described in a line: what most tests of a plugin need."""

import pytest

import mho


@pytest.fixture
def tile():
    """tile(W, effect, ..., key=value) -> a `mho.Tile` without converters, weights taken as they are (|w| <= 1)."""

    def make(weight, *effects, compiled=False, precision="auto", **settings):
        given = {"device": "{g_max: 25 uS}", "mapping": "mho.direct", "dac": "none", "adc": "none", **settings}
        body = "".join(f"    {key}: {value}\n" for key, value in given.items())
        body += f"    nonidealities: [{', '.join(effects)}]\n"
        top = f"mho: 1\ndefault: t\nprecision: {precision}\ncompile: {str(compiled).lower()}\n"
        return mho.Tile(weight, mho.Hardware.from_yaml(f"{top}tiles:\n  t:\n{body}"))

    return make
