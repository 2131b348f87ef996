"""Fused experts of transformers on tiles: exact where tiles are, saved and loaded, named where calibration missed them."""

import pytest
import torch

import mho

pytest.importorskip("transformers", reason="transformers is not installed")
from mho_kit import LayerContract
from mho_transformers.experts import AnalogExperts
from transformers import MixtralConfig, MixtralForCausalLM, OlmoeConfig, OlmoeForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

pytestmark = pytest.mark.filterwarnings("ignore:left digital.*Router")  # and so they should be

SIZE = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
MODELS = {
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZE, intermediate_size=48, num_local_experts=4)),
    "olmoe": lambda: OlmoeForCausalLM(OlmoeConfig(**SIZE, intermediate_size=48, num_experts=4, num_experts_per_tok=2)),
    "qwen": lambda: Qwen2MoeForCausalLM(
        Qwen2MoeConfig(**SIZE, intermediate_size=48, moe_intermediate_size=24, num_experts=4, shared_expert_intermediate_size=32)
    ),
}


class TestExperts(LayerContract):
    layer = AnalogExperts


def model(name="mixtral"):
    torch.manual_seed(0)
    return MODELS[name]().eval()


def words(rows=2, length=12):
    return torch.randint(0, 32, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MODELS)
def test_exact_tiles_compute_what_torch_does(name):
    plain = model(name)
    net = mho.to_analog(plain, "ideal.exact").eval()
    experts = {n: p.numel() for n, p in plain.named_parameters() if p.dim() == 3}
    entries = [e for e in mho.conversion_report(net).analog if e.name.endswith("experts")]
    assert sum(e.parameters for e in entries) >= 0.95 * sum(experts.values()) > 0
    assert all(len(e.matrices) == 8 for e in entries)
    y, exact = net(words()).logits, plain(words()).logits
    assert (y - exact).abs().max() < 1e-5 * exact.abs().max()


def test_a_mixture_is_saved_and_loaded_and_programmed_as_it_was(tmp_path):
    net = mho.to_analog(model(), "pcm.standard").eval()
    mho.calibrate(net, [words(16)])
    mho.save_model(net, tmp_path / "net.safetensors")
    torch.manual_seed(5)
    again = mho.to_analog(MODELS["mixtral"](), "pcm.standard").eval()
    mho.load_model(again, tmp_path / "net.safetensors")
    for n in (net, again):
        mho.program(n, seed=2)
    assert torch.equal(net(words()).logits, again(words()).logits)
    digital = mho.to_digital(net)
    assert torch.allclose(digital(words()).logits, model()(words()).logits)


def test_the_chip_of_an_expert_does_not_depend_on_the_router():
    chips = []
    for rows in (1, 16):
        net = mho.to_analog(model(), "pcm.standard").eval()
        net(words(rows))
        mho.program(net, seed=2)
        chips.append(net.model.layers[0].mlp.experts.tiles["gate_up_3"].chip.weights)
    assert torch.equal(*chips)


def test_experts_that_calibration_never_saw_are_named():
    net = mho.to_analog(model(), "pcm.standard").eval()
    with pytest.warns(UserWarning, match=r"experts.gate_up_\d"):
        mho.calibrate(net, [words(1, 1)])
    said = [r for e in mho.conversion_report(net).analog if e.name.endswith("experts") for r in e.remarks]
    assert said and all("experts.down_" in r for r in said)


def test_other_layouts_are_refused_by_name():
    plain = MixtralForCausalLM(MixtralConfig(**{**SIZE, "num_hidden_layers": 2}, intermediate_size=48, num_local_experts=4))
    plain.model.layers[0].mlp.experts.is_transposed = True
    net = mho.to_analog(plain, "ideal.exact")
    left = {e.name: e.why for e in mho.conversion_report(net).left_digital}
    assert "is_transposed" in left["model.layers.0.mlp.experts"] and "model.layers.1.mlp.experts" not in left
