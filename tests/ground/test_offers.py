"""Names that folders offer: each is imported on first use, and is no module of the folder."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUBS = sorted(f for part in ("core", "plugins") for f in (ROOT / part).rglob("__init__.pyi") if f.parent.name != "mho")


@pytest.mark.parametrize("stub", STUBS, ids=lambda f: f.parent.name)
def test_a_name_is_no_module_of_its_folder(stub):
    """Python would put the module in its place as soon as somebody imports that."""
    imports = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
    parts = stub.parent.relative_to(ROOT).parts
    folder = ".".join(parts[1:] if parts[0] == "core" else parts[3:])
    names = {a.name for node in imports for a in node.names if node.module != folder}
    assert not names & {f.stem for f in stub.parent.iterdir()}


def test_a_name_that_is_not_there_is_an_attribute_error():
    lab = importlib.import_module("mho_lab")
    assert lab.report is importlib.import_module("mho_lab.report") and lab.Task.__module__ == "mho_lab.run.task"
    with pytest.raises(AttributeError, match="module 'mho_lab' has no attribute 'nothing'"):
        lab.nothing
