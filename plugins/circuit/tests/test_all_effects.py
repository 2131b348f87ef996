"""What every circuit effect has to keep: strength 0, devices, dtypes, gradients, copies."""

import copy

import mho_circuit
import pytest
import torch

import mho

EFFECTS = {
    "circuit.ir_drop": "scale",
    "circuit.ir_drop_ladder": "scale",
    "circuit.ir_drop_ladder, input_encoding: driven": "scale",
    "circuit.ir_drop_nodal": "scale",
    "circuit.adc_s_curve": "mean",
    "circuit.output_noise": "std",
    "circuit.polarity_asymmetry": "std",
    "circuit.two_phase": None,
    "circuit.two_phase, sum: digital": None,
    "circuit.current_limit": None,
    "circuit.cell_curve": None,
    "circuit.thermal_noise": "scale",
    "circuit.programming_error": "scale",
    "circuit.write_verify": None,
    "circuit.gradient_programming": None,
}
ADC = "{bits: none, bound: 30}"


def uniform(*shape, seed=0):
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 1


def test_all_effects_are_tested_here():
    assert {text.split(",")[0] for text in EFFECTS} == {e.KIND for e in mho_circuit.mho_nonidealities()}


@pytest.mark.parametrize(("text", "strength"), [(t, s) for t, s in EFFECTS.items() if s])
def test_strength_0_is_bit_identical_to_absent(tile, text, strength):
    """R003-45; other effects' draws do not change either"""
    w, x = uniform(16, 40), uniform(5, 40, seed=1)
    noise = "{kind: circuit.output_noise, std: 0.1}"
    without = tile(w, noise, adc=ADC).program(seed=0)(x)
    removed = tile(w, noise, f"{{kind: {text}, {strength}: 0}}", adc=ADC).program(seed=0)(x)
    assert torch.equal(removed, without)


@pytest.mark.parametrize("text", EFFECTS)
def test_an_effect_documents_itself_and_its_source(text):
    effect = next(e for e in mho_circuit.mho_nonidealities() if text.split(",")[0] == e.KIND)
    assert effect.__doc__ and effect.source and effect.bibtex
    for name, field in effect.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize("text", EFFECTS)
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_chip_is_the_same_on_every_device(tile, text, device):
    """Same draws, values equal to rounding"""
    if not getattr(torch, device).is_available():
        pytest.skip(f"no {device} on this machine")
    w, x = uniform(16, 40), uniform(5, 40, seed=1)
    here = tile(w, f"{{kind: {text}}}", adc=ADC).program(seed=0)(x)
    there = tile(w.to(device), f"{{kind: {text}}}", adc=ADC).program(seed=0)(x.to(device)).cpu()
    assert torch.allclose(here, there, atol=1e-4)


@pytest.mark.parametrize("text", EFFECTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes_and_leading_axes_are_kept_and_inputs_untouched(tile, text, dtype):
    w, x = uniform(16, 40).to(dtype), uniform(2, 3, 40, seed=1).to(dtype)
    before = x.clone()
    y = tile(w, f"{{kind: {text}}}", adc=ADC, rows=16).program(seed=0)(x)
    assert (y.dtype, y.shape) == (dtype, (2, 3, 16))
    assert y.isfinite().all() and torch.equal(x, before)


@pytest.mark.parametrize("text", [t for t in EFFECTS if "program" not in t and "write" not in t])
def test_training_gradients_reach_weights_and_inputs(tile, text):
    t = tile(uniform(16, 40), f"{{kind: {text}}}", adc=ADC).train()
    x = uniform(5, 40, seed=1).requires_grad_()
    t(x).sum().backward()
    for gradient in (t.weight.grad, x.grad):
        assert gradient.isfinite().all() and gradient.abs().max() > 0


@pytest.mark.parametrize("text", EFFECTS)
def test_a_copy_is_the_same_chip(tile, text):
    x = uniform(5, 40, seed=1)
    t = tile(uniform(16, 40), f"{{kind: {text}}}", adc=ADC).program(seed=0)
    assert torch.equal(copy.deepcopy(t)(x), t(x))


@pytest.mark.parametrize("text", EFFECTS)
def test_an_effect_survives_the_round_trip_through_yaml(tile, text):
    hw = mho.Hardware.from_yaml(
        f"mho: 1\ndefault: t\ntiles: {{t: {{device: {{g_max: 25 uS}}, nonidealities: [{{kind: {text}}}]}}}}"
    )
    assert mho.Hardware.from_yaml(hw.to_yaml()) == hw
