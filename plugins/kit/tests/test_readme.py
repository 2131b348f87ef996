"""The README of the kit: its example runs, and it names every contract."""

import re
from pathlib import Path

import mho_kit

TEXT = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_of_the_readme_runs():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_the_readme_names_every_contract():
    for name in mho_kit.__all__:
        assert not name.endswith("Contract") or f"`{name}`" in TEXT, name
