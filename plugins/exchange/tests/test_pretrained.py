"""Networks as folders: the same function after a round trip, nothing imported on the word of a file."""

import json

import pytest
import torch
from torch import nn

import mho


class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.first, self.last = nn.Linear(16, width), nn.Linear(width, 3)

    def forward(self, x):
        return self.last(self.first(x).relu())


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = mho.to_analog(Net(5), "pcm.standard").eval()
    mho.calibrate(net, [torch.randn(32, 16)])
    return net


def test_a_network_comes_back_from_its_folder_to_the_bit(net, tmp_path):
    """Weights, input ranges and hardware: chips of one seed compute the same"""
    folder = mho.save_pretrained(net, tmp_path / "net", {"width": 5})
    assert {f.name for f in folder.iterdir()} == {"model.safetensors", "hardware.yaml", "mho.json"}
    assert json.loads((folder / "mho.json").read_text())["versions"]["mho"] == mho.__version__
    x = torch.randn(4, 16)
    for other in (mho.load_pretrained(folder), mho.load_pretrained(folder, Net(5))):
        for n in (net, other):
            mho.program(n, seed=3, age="1 h")
        assert torch.equal(net(x), other(x))


def test_a_folder_makes_python_import_nothing(net, tmp_path):
    folder = mho.save_pretrained(net, tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit")
    about = json.loads((folder / "mho.json").read_text())
    for module, name in (("evil", "Net"), ("os", "system"), ("nowhere", "")):
        (folder / "mho.json").write_text(json.dumps({**about, "class": [module, name]}))
        with pytest.raises(mho.MhoError, match=f"import {module} first|was not written by"):
            mho.load_pretrained(folder)


def test_what_does_not_fit_is_said(net, tmp_path):
    folder = mho.save_pretrained(net, tmp_path / "net")  # without the width
    with pytest.raises(mho.MhoError, match=r"test_pretrained.*Net\(\*\*\{\}\).*does not fit"):
        mho.load_pretrained(folder)
    with pytest.raises(mho.MhoError, match=r"was not written by mho.save_pretrained.*mho\.json"):
        mho.load_pretrained(tmp_path)
    with pytest.raises(mho.MhoError, match="no analog layers"):
        mho.save_pretrained(Net(), tmp_path / "digital")


def test_hardware_and_trainings_say_what_they_are(net):
    hw = mho.load("pcm.standard")
    assert "tiles: pcm 512 x 512, default: pcm" in repr(hw) and len(repr(hw)) < 200
    assert "pcm.drift" in str(hw) and "512 x 512" in hw._repr_html_()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    attached = mho.attach(optimizer, net, steps_per_epoch=1)
    optimizer.step()
    assert repr(attached) == "Attached(SGD after 1 steps, clip: 1.0, remap: none, out_scale: fixed, methods: none)"
