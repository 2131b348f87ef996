"""Training on two gloo ranks: DDP and FSDP2 (`ranks.py` is what each rank runs)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent


def two_ranks(how: str, mode: str, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What both ranks end with; that they are bit-equal, and have drawn the same weight keys, is asserted here."""
    folder.mkdir()
    command = [sys.executable, "-W", "ignore", str(HERE / "ranks.py"), how, mode, str(folder)]
    ranks = [subprocess.Popen([*command, str(r), "2"], stderr=subprocess.PIPE, text=True) for r in range(2)]
    errors = [r.communicate(timeout=250)[1] for r in ranks]
    assert [r.returncode for r in ranks] == [0, 0], errors
    a, b = (load_file(folder / f"{r}.safetensors") for r in range(2))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    keys = [json.loads((folder / f"{r}.json").read_text()) for r in range(2)]
    assert keys[0] == keys[1] and len({tuple(k) for k in keys[0]}) == 7  # a new one at every step
    return a, b


@pytest.mark.parametrize("mode", ["through", pytest.param("ste", marks=pytest.mark.slow)])
def test_ranks_stay_bit_equal_and_sharded_weights_are_clipped_like_whole_ones(mode, tmp_path):
    """One mini-batch noise for all ranks; clip, remap, ramp and input ranges as in one process."""
    replicated, _ = two_ranks("ddp", mode, tmp_path / "ddp")
    sharded, _ = two_ranks("fsdp", mode, tmp_path / "fsdp")
    assert replicated.keys() == sharded.keys()
    for name, value in replicated.items():
        assert torch.allclose(value, sharded[name], rtol=1e-4, atol=1e-6), name
    weight, gamma = sharded["0.weight"], sharded["0.tiles.gamma"]  # [10, 12] on tiles of 6 + 6 rows
    used = weight.abs().unflatten(1, (2, 6)).amax(2).t()
    assert (used <= gamma).all() and sharded["0.tiles.step"].item() == 7
    assert ((used / gamma).max(1).values > 0.49).all()  # clipped at 0.5 gamma: some weights are there
