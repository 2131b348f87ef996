"""The README of this plugin: its YAML runs, and its tables name every kind and preset."""

import re
from pathlib import Path

import mho_ideal
import torch

import mho

HERE = Path(__file__).parents[1]
TEXT = (HERE / "README.md").read_text()


def test_the_yaml_of_the_readme_runs():
    (yaml,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    tile = mho.Tile(torch.ones(8, 8) / 8, mho.Hardware.from_yaml(yaml)).program(seed=0)
    assert tile.age("1 h")(torch.ones(2, 8)).isfinite().all()


def test_the_readme_names_every_kind_and_preset():
    presets = [f"ideal.{path.stem}" for path in HERE.glob("src/*/presets/*.yaml")]
    for name in [effect.KIND for effect in mho_ideal.mho_nonidealities()] + presets:
        assert f"`{name}`" in TEXT, name
