"""The script of the figures runs on the code as it is: those of formulas, drawn into memory."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
SCRIPT = Path(__file__).parents[2] / "docs" / "make_figures.py"


@pytest.mark.parametrize("name", ["mappings", "drift", "s_curve", "polarity"])
def test_a_figure_of_formulas_is_drawn(name):
    from matplotlib.figure import Figure

    spec = importlib.util.spec_from_file_location("make_figures", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    figure = Figure()
    getattr(script, name)(figure)
    assert any(axes.lines or axes.collections or axes.patches for axes in figure.axes)
