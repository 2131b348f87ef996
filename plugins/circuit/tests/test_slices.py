"""Weights in slices and inputs in digits: integers come back, errors follow their laws in time, devices are each their own."""

import copy
import functools
import itertools
import math

import mho_circuit
import pytest
import torch
from mho_circuit.encoding import SerialDac
from mho_circuit.slices import Digits, EqualShares, MaxFill, Residual
from mho_kit import ConverterContract, MappingContract
from torch import nn

import mho


def lab(module):
    """What counts and measures; skips where mho-lab is not installed."""
    return pytest.importorskip(f"mho_lab.{module}")


SIGNS = ("pair", "columns", "offset", "reference", "twos_complement")


@pytest.mark.slow
class TestEqualShares(MappingContract):
    spec = EqualShares(devices=3)


@pytest.mark.slow
class TestMaxFillOffset(MappingContract):
    spec = MaxFill(devices=3, sign="offset", range="tile")


@pytest.mark.slow
class TestResidual(MappingContract):
    spec = Residual(devices=2)


class TestDigits(MappingContract):
    spec = Digits(bits=6, digit=3, sign="twos_complement")


@pytest.mark.slow
class TestSerialDac(ConverterContract):
    spec = SerialDac(bits=6, digit=2)


def test_all_mappings_and_converters_are_tried_here():
    kinds = {c.spec.KIND for c in MappingContract.__subclasses__() if c.__module__ == __name__}
    assert {m.KIND for m in mho_circuit.mho_mappings()} <= kinds


def sliced(tile, w, mapping, *effects, sign="pair", pair=None, **settings):
    """A tile whose weights are held as `mapping` says, one device of a slice being what `sign` needs."""
    pair = pair or ("active" if sign == "pair" else "single")
    device = settings.pop("device", f"{{g_max: 25 uS, pair: {pair}}}")
    return tile(w, *effects, mapping=f"{{kind: circuit.{mapping}, sign: {sign}}}", device=device, **settings)


def integers(seed, *shape, top=127):
    return torch.randint(-top, top + 1, shape, generator=torch.Generator().manual_seed(seed))


def lossless(rows, cell, part):
    """The ADC of digits with `cell` and `part` bits (Digits): the bits, and the bound."""
    step = 1 / ((2**cell - 1) * (2**part - 1))
    bits = 1 + math.ceil(math.log2(rows * (2**cell - 1) * (2**part - 1) + 1))
    return bits, (2 ** (bits - 1) - 1) * step


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("precision", ["reference", "auto", "fp64"])
def test_integers_come_back_whatever_the_digits(tile, precision, sign):
    """All splits of the 8 bits of weights and inputs, shapes at random. In fp32 behind lossless ADCs; in fp64 without, and with
    an on/off ratio of 12.5 where cells are single. The fast path has 15 bits for a sum of products of a cell and a part."""
    g, exact = torch.Generator().manual_seed(SIGNS.index(sign)), precision == "fp64"
    single = sign != "pair"
    device = f"{{g_max: 25 uS, g_min: {2 if single and exact else 0} uS, pair: {'single' if single else 'active'}}}"
    for cell, part in itertools.product(range(1, 8), range(1, 8)):
        if precision == "auto" and cell + part > 11:
            continue
        outputs, rows = (int(n) for n in torch.randint(1, 40, (2,), generator=g))
        w, x = (integers(k, n, rows).to(torch.float64 if exact else torch.float32) for k, n in ((cell, outputs), (part, 5)))
        w[:, 0] = w[:, -1] = 127  # every column of every tile fills its range
        bits, bound = lossless(30, cell, part)
        both = "twos_complement" if part % 2 else "magnitude"
        t = sliced(
            tile, w, f"digits, digit: {cell}", sign=sign, device=device, rows=30,
            dac=f"{{kind: circuit.serial_dac, range: 127, digit: {part}, sign: {both}}}",
            adc="none" if exact else f"{{bits: {bits}, bound: {bound:.17g}}}", precision="reference" if exact else precision,
        ).program(seed=0)  # fmt: skip
        with torch.no_grad():
            y = t(x)
        assert torch.equal(y.round(), x @ w.T) and float((y - y.round()).abs().max()) < (1e-6 if exact else 0.45), (cell, part)


@pytest.mark.parametrize("rows", [64, 512])
@pytest.mark.parametrize("cell", [1, 2, 4])
@pytest.mark.parametrize("part", [1, 2, 4])
def test_one_bit_less_than_lossless_is_too_few(tile, rows, cell, part):
    """The largest sum does not fit: all weights and inputs at their top."""
    w, x = torch.full((2, rows), 127.0), torch.full((3, rows), 127.0)
    bits, bound = lossless(rows, cell, part)
    step = bound / (2 ** (bits - 1) - 1)
    errors = []
    for b in (bits, bits - 1):
        adc = f"{{bits: {b}, bound: {(2 ** (b - 1) - 1) * step:.17g}}}"
        dac = f"{{kind: circuit.serial_dac, range: 127, digit: {part}}}"
        y = sliced(tile, w, f"digits, digit: {cell}", dac=dac, adc=adc, rows=rows, precision="reference")(x).detach()
        errors.append(float((y - x @ w.T).abs().max()))
    assert errors[0] < 0.45 * rows / 64 and errors[1] > 100


def test_one_device_is_the_ordinary_mapping(tile):
    """Bit for bit, noise of device and circuit included."""
    w, x = integers(0, 20, 50).float(), integers(1, 4, 50).float()
    effects = ("pcm.programming_noise", "pcm.drift", "circuit.ir_drop", "circuit.output_noise")
    one = sliced(tile, w, "equal_shares, devices: 1", *effects).program(seed=3).age("1 h")
    assert torch.equal(one(x), tile(w, *effects, mapping="mho.per_column").program(seed=3).age("1 h")(x))


@pytest.mark.parametrize("mapping", ["equal_shares, devices: 2", "digits, digit: 3"])
@pytest.mark.parametrize("sum", ["digital", "analog"])
def test_slices_are_devices_of_their_own(tile, mapping, sum):
    """Errors of two slices are independent: |r| < 4.4/sqrt(n) at alpha = 1e-5."""
    w = 2 * torch.rand(100, 200, generator=torch.Generator().manual_seed(0)) - 1
    t = sliced(tile, w, f"{mapping}, sum: {sum}", "pcm.programming_noise", pair="both").program(seed=0)
    chip, k = t.tiles.chip, t.tiles.view.slices
    off = (chip.programmed - t.tiles.view.target(chip.target))[0].unflatten(1, (100, k))[0]  # [out, slice, row]
    a, b = off[:, 0].flatten(), off[:, 1].flatten()
    free = (a != 0) & (b != 0)
    r = torch.corrcoef(torch.stack([a[free], b[free]]))[0, 1]
    assert abs(float(r)) < 4.4 / math.sqrt(int(free.sum()))


@pytest.mark.parametrize("sign", ["pair", "offset"])
def test_stuck_cells_of_every_slice_are_counted(tile, sign):
    """Exactly the cells that the draw names, in slices and devices alike: off 10 %, on 5 %, of n cells each within 4.42 sigma."""
    w = torch.full((100, 200), 0.4)
    w[:, 0] = 1.0
    stuck = "{kind: rram.stuck_at, off: 0.1, on: 0.05}"
    t = sliced(tile, w, "digits, digit: 2", stuck, sign=sign, pair="both" if sign == "pair" else None).program(seed=0)
    chip, view = t.tiles.chip, t.tiles.view
    target = view.target(chip.target)
    off, on = ((chip.programmed == level).unflatten(2, (100, 4)) for level in (0.0, 25.0))
    for k, which in itertools.product(range(4), range(len(target))):
        free = target.unflatten(2, (100, 4))[which, 0, :, k]
        for share, hit, away in ((0.1, off, free > 0), (0.05, on, free < 25)):
            n, count = int(away.sum()), int((hit[which, 0, :, k] & away).sum())
            assert abs(count - share * n) <= 4.42 * math.sqrt(n * share * (1 - share))
    aged = t.age("1 h").tiles.chip
    assert torch.equal(aged.programmed, chip.programmed)


@pytest.mark.parametrize("effects", [["pcm.programming_noise"], ["{kind: circuit.output_noise, std: 0.1}"]])
def test_columns_of_a_tile_share_the_error_of_their_reference(tile, effects):
    """y_i - y_0 of each tile, errors e_i and c e_0 independent: outputs of one tile correlate by s_0/(s + s_0), s and s_0 being
    the variances of both; those of two tiles do not. 4,000 chips or vectors: 4.42/sqrt(4000) at alpha = 1e-5."""
    n, drawn = 4000, effects[0] != "pcm.programming_noise"
    t = sliced(tile, torch.zeros(4, 30), "equal_shares, devices: 1", *effects, sign="reference", columns=3)
    assert t.tiles.layout.block_sizes == [2, 2] and t.tiles.view.layout.references == 2
    x = torch.full((n, 30), 0.5)
    y = t.program(seed=0)(x) if drawn else torch.stack([t.program(seed=k)(x[:1])[0] for k in range(n)])
    y = y.detach()
    r = torch.corrcoef(y.T)
    s, s0 = 4.0, 1.0  # f = 2 of a column, and 1 of the reference: of equal noise
    if not drawn:  # sigma in the middle and at the end of the range
        polynomial = [-1.1731 * g * g + 1.9650 * g + 0.2635 for g in (0.5, 1.0)]
        s, s0 = 4 * polynomial[0] ** 2, polynomial[1] ** 2
        assert float(y.var()) == pytest.approx((s + s0) / 25**2 * 30 / 4, rel=0.05)
    shared, limit = s0 / (s + s0), 4.42 / math.sqrt(n)
    assert abs(float(r[0, 1]) - shared) < limit and abs(float(r[2, 3]) - shared) < limit
    assert abs(float(r[0, 2])) < limit and abs(float(r[1, 3])) < limit


def test_a_reference_drifts_as_its_columns_do(tile):
    """Cells at g_max fall to a share s: columns less their reference are s w, a sum of inputs leaves 1 - s of itself."""
    w, x = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)).sign(), torch.rand(5, 40)
    drift, kept = "{kind: pcm.drift, nu_std: 0}", (3600 / 20 + 1) ** -0.049
    for sign, expected in (("reference", kept * x @ w.T), ("offset", kept * x @ w.T - (1 - kept) * x.sum(1, keepdim=True))):
        y = sliced(tile, w, "equal_shares, devices: 2", drift, sign=sign).program(seed=0).age("1 h")(x)
        assert torch.allclose(y, expected, atol=1e-3), sign


def test_the_error_of_equal_shares_falls_as_one_over_the_root(tile):
    """Of 40,000 weights on K devices each, within 3 %."""
    w = 2 * torch.rand(200, 200, generator=torch.Generator().manual_seed(0)) - 1
    w[:, 0] = 1.0
    sigma = []
    for k in (1, 4, 9):
        t = sliced(tile, w, f"equal_shares, devices: {k}", "pcm.programming_noise").program(seed=0)
        sigma.append(float((t(torch.eye(200)).T - w).std()))
    assert sigma[0] / sigma[1] == pytest.approx(2, rel=0.03) and sigma[0] / sigma[2] == pytest.approx(3, rel=0.03)


@pytest.mark.parametrize(("sign", "sum"), [("pair", "digital"), ("pair", "analog"), ("columns", "digital")])
def test_residuals_make_up_for_what_was_programmed_and_not_for_what_comes(tile, sign, sum):
    """Each device takes the error down by about `ratio`; after a day, the first one's drift is all that is left."""
    w = 2 * torch.rand(100, 100, generator=torch.Generator().manual_seed(0)) - 1
    w[:, 0] = 1.0

    def error(k, t):
        effects = ("pcm.programming_noise", "pcm.drift")
        made = sliced(tile, w, f"residual, devices: {k}, sum: {sum}", *effects, sign=sign).program(seed=0).age(t)
        return float((made(torch.eye(100)).T - w).std())

    first, second, third = (error(k, 0) for k in (1, 2, 3))
    assert 5 < first / second < 12 and 5 < second / third < 12
    assert error(3, "1 day") == pytest.approx(error(2, "1 day"), rel=0.02) and error(2, "1 day") > 5 * second


def test_stuck_cells_are_made_up_for_by_residuals(tile):
    """A first device that is stuck off leaves a residual that the second can hold, up to 1/ratio."""
    w = torch.full((40, 50), 0.1)
    w[:, 0] = 1.0
    stuck = "{kind: rram.stuck_at, off: 0.02, on: 0}"
    t = sliced(tile, w, "residual, devices: 2, ratio: 4", stuck).program(seed=0)
    lost = float(((t(torch.eye(50)).T - w).abs() > 1e-6)[:, 1:].float().mean())
    assert lost < 0.002  # both of them stuck, or the second: 0.02 of a residual that is 0


def test_noise_of_passes_adds_up_as_they_count(tile):
    """Output noise sigma of every pass counts f_p: sum f_p^2 sigma^2 where each is converted, sigma^2 where they are added in
    analog. 200,000 values, within 2 %."""
    w, x = torch.eye(200), torch.ones(1000, 200)
    noise = "{kind: circuit.output_noise, std: 0.1}"
    for how, expected in (("digital", sum((2.0**k / 127) ** 2 for k in range(7))), ("analog", 1.0)):
        dac = f"{{kind: circuit.serial_dac, range: 1, sum: {how}}}"
        for precision in ("auto", "reference"):
            off = tile(w, noise, dac=dac, precision=precision).program(seed=0)(x) - 1
            assert float(off.var()) == pytest.approx(0.01 * expected, rel=0.02)


def test_both_paths_agree_on_chips(tile):
    w, x = integers(0, 60, 300).float(), integers(1, 8, 300).float()
    effects = ("pcm.programming_noise", "pcm.drift", "circuit.ir_drop", "{kind: circuit.adc_s_curve, std: 0.3}")
    kinds = ("digits, digit: 3", "pair"), ("max_fill, devices: 2", "offset"), ("digits", "reference"), ("residual", "columns")
    for mapping, sign in kinds:
        both = [
            sliced(
                tile, w, mapping, *effects, sign=sign, precision=precision, rows=128, columns=64,
                dac="{kind: circuit.serial_dac, range: 127, digit: 4}", adc="{bits: none, bound: 30}",
                compensation="mho.column_drift",
            ).program(seed=0).age("1 day")(x)
            for precision in ("auto", "reference")
        ]  # fmt: skip
        assert float((both[0] - both[1]).norm() / both[1].norm()) < 2e-3


NETWORK = """\
mho: 1
default: t
tiles:
  t:
    rows: 24
    columns: 16
    device: {pair: %s, g_max: 25 uS}
    mapping: {kind: circuit.%s}
    dac: {kind: circuit.serial_dac, digit: 4}
    adc: {bits: 10, bound: 12}
    nonidealities: [pcm.programming_noise, pcm.drift]
    compensation: mho.global_drift
training: {inject: {scale: 1.0}}
"""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.lstm, self.out = nn.Conv2d(4, 6, 3, groups=2), nn.LSTM(9, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.lstm(self.conv(x).flatten(2))[0][:, -1])


@pytest.mark.parametrize(
    "mapping",
    ["digits, digit: 2", "digits, digit: 3, sign: twos_complement", "residual, sum: analog", "equal_shares, sign: reference"],
)
def test_networks_train_and_age_with_slices(mapping, tmp_path):
    """Grouped convolution, recurrent and linear layers: close to the digital network, gradients of the right size, chips that
    are saved and copied."""
    torch.manual_seed(0)
    model, x = Net(), torch.randn(6, 4, 5, 5)
    pair = "active" if mapping.endswith("2") or "analog" in mapping else "single"
    net = mho.to_analog(copy.deepcopy(model), mho.Hardware.from_yaml(NETWORK % (pair, mapping)))
    mho.calibrate(net, [x])
    mho.attach(torch.optim.SGD(net.parameters(), lr=0.0), net)
    y, exact = net.train()(x), model(x)
    y.square().sum().backward()
    exact.square().sum().backward()
    theirs = dict(model.named_parameters())
    for name in ("conv.weight", "out.weight"):
        mine = dict(net.named_parameters())[name].grad
        assert nn.functional.cosine_similarity(mine.flatten(), theirs[name].grad.flatten(), dim=0) > 0.8
    chip = mho.program(net.eval(), seed=0)
    mho.age(net, "1 h")
    y = net(x)
    assert float(((y - exact).norm() / exact.norm()).detach()) < 0.35
    chip.save(tmp_path / "chip")
    again = copy.deepcopy(net)
    mho.program(net, seed=1)
    mho.load_chip(net, tmp_path / "chip")
    mho.age(net, "1 h")
    assert torch.equal(again(x), y) and torch.equal(net(x), y)


def test_slices_take_columns(tile):
    """16 outputs of 4 columns each on tiles of 64; the footprint counts them."""
    t = sliced(tile, torch.ones(100, 8), "digits, digit: 2", columns=64, rows=8)
    assert t.tiles.layout.block_count == 7 and t.tiles.view.layout.block_count == 7
    assert t.tiles.view.layout.columns == 400 and t.tiles.view.mapping.columns == 4
    found = lab("footprint.counting").footprint(nn.Linear(8, 16, bias=False), torch.ones(1, 8), mho.Hardware.from_yaml(FULL))
    assert found.utilisation == 1.0 and found[0].tiles == 1


def test_reference_columns_are_counted():
    """12 outputs of 3 columns and 8 x 10 tiles: 9 columns hold three outputs, and one is the reference."""
    mapping = "{kind: circuit.digits, bits: 6, digit: 2, sign: reference}"
    tile = f"{{rows: 8, columns: 10, device: {{pair: single}}, mapping: {mapping}}}"
    hw = mho.Hardware.from_yaml(f"mho: 1\ndefault: t\ntiles: {{t: {tile}}}\n")
    found = lab("footprint.counting").footprint(nn.Linear(16, 12, bias=False), torch.ones(1, 16), hw)
    assert found[0].tiles == 8 and found.devices == 16 * 12 * 3 + 16 * 4 and found.utilisation == 0.9


FULL = """
mho: 1
default: t
tiles: {t: {rows: 8, columns: 64, mapping: {kind: circuit.digits, digit: 2}}}
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mapping: {kind: circuit.digits, sign: offset}", "pair: single"),
        ("device: {pair: single}", "'pair: active' or 'both'"),
        ("mapping: {kind: circuit.residual, sign: offset}", "residuals of either sign"),
        ("mapping: {kind: circuit.digits, sign: reference}", "pair: single"),
        ("mapping: {kind: circuit.digits, sign: reference, sum: analog}", "'sum: digital', or 'sign: offset'"),
        ("columns: 4\n    device: {pair: single}\n    mapping: {kind: circuit.digits, sign: reference}", "needs 5 columns"),
        ("columns: 3\n    mapping: {kind: circuit.digits}", "needs 4 columns"),
        ("dac: {kind: circuit.serial_dac, bits: none}", "how many bits"),
    ],
)
def test_what_does_not_fit_is_said(text, said):
    with pytest.raises(mho.MhoError, match=said):
        mho.Hardware.from_yaml(f"mho: 1\ndefault: t\ntiles:\n  t:\n    {text}\n")


TABLE = {  # scheme: programming only, + circuit at t0, 1 s with 1/f noise, 1 day compensated; MVM error in %
    "mho.tile_max": (10.8, 11.46, 14.65, 18.57),
    "{kind: circuit.residual, devices: 2, ratio: 6.6, range: tile}": (1.43, 4.15, 10.15, 15.64),
    "{kind: circuit.residual, devices: 3, ratio: 6.6, range: tile}": (0.19, 3.90, 10.05, 15.59),
    "{kind: circuit.residual, devices: 4, ratio: 6.6, range: tile}": (0.03, 3.89, 10.05, 15.59),
    "{kind: circuit.equal_shares, devices: 2, range: tile}": (7.65, 8.14, 10.4, 13.34),
    "{kind: circuit.equal_shares, devices: 3, range: tile}": (6.25, 6.66, 8.5, 11.08),
    "{kind: circuit.equal_shares, devices: 4, range: tile}": (5.41, 5.78, 7.38, 9.74),
}
SCHEME = """\
mho: 1
default: t
tiles:
  t:
    columns: 2048
    device: {g_max: 25 uS}
    mapping: %s
    nonidealities: [pcm.programming_noise]
"""
CIRCUIT = """\
    dac: {bits: 8, range: 1.0}
    adc: {bits: 8, bound: 10}
    compensation: mho.global_drift
"""
READ = "pcm.programming_noise, {kind: pcm.read_noise, sigma: 0.0175}, {kind: circuit.output_noise, std: 0.04}"
AGED = f"pcm.drift, pcm.read_noise_1f, {READ}"


@functools.cache
def over_time(mapping):
    """The row of the table that mho has."""
    alone, circuit = SCHEME % mapping, (SCHEME % mapping).replace("[pcm.programming_noise]", f"[{READ}]") + CIRCUIT
    cases = (alone, None), (circuit, None), (circuit.replace(READ, AGED), "1 s"), (circuit.replace(READ, AGED), "1 day")
    experiment = lab("run.product").MvmExperiment(matrices=4)
    return [100 * lab("run.product").standard_mvm_error(mho.Hardware.from_yaml(hw), t, experiment).mean for hw, t in cases]


@pytest.mark.slow
@pytest.mark.parametrize("mapping", TABLE)
def test_schemes_over_time(mapping):
    """MVM errors of 512 x 512 weights N(0, 0.246), the largest of the tile on g_max, within 4 % (or half the last digit) of
    figures that another program computed."""
    found = over_time(mapping)
    print(mapping, [f"{e:.3f}" for e in found])
    for mine, wanted in zip(found, TABLE[mapping]):
        assert abs(mine - wanted) < max(0.04 * wanted, 0.005), (found, TABLE[mapping])


@pytest.mark.slow
def test_laws_of_schemes_over_time():
    """Equal shares: 1/sqrt(K) at every time, within 3 % (the 8 bits of the ADC included). Residuals: from the second device on
    nothing is gained once they are read, within 1 % after a day, and a pair of equal shares is better by then."""
    one, *rest = (over_time(mapping) for mapping in TABLE)
    residual, equal = rest[:3], rest[3:]
    for k, errors in zip((2, 3, 4), equal):
        assert errors == pytest.approx([e / math.sqrt(k) for e in one], rel=0.03)
    assert residual[1][3] == pytest.approx(residual[0][3], rel=0.01) == residual[2][3]
    assert residual[0][0] < one[0] / 5 and residual[0][3] > 1.1 * equal[0][3]


def test_what_a_device_of_a_residual_counts_follows_from_the_errors_of_devices():
    """A device holds the errors of the one before up to c s, s being their largest standard deviation over g_max. The error of
    four is smallest about c = 3.5, which is the ratio of the table: with less, errors beyond the range stay for good; with more,
    those of the device are coarse. Its column of programming noise, by a loop over numbers."""
    g = torch.Generator().manual_seed(0)
    w = torch.randn(4, 512 * 512, generator=g, dtype=torch.float64)
    w /= w.abs().amax(1, keepdim=True)

    def sigma(v):
        return (-1.1731 * v**2 + 1.9650 * v.abs() + 0.2635) / 25 * (v != 0)

    def errors(ratio):
        rest, found = w, []
        for k in range(4):
            v = (rest * ratio**k).clamp(-1, 1)
            noise = torch.randn(w.shape, generator=g, dtype=torch.float64)
            rest = rest - v.sign() * (v.abs() + sigma(v) * noise).clamp(min=0) / ratio**k
            found.append(100 * float(rest.std() / w.std()))
        return found

    s = float(sigma(torch.linspace(0, 1, 1001)).max())
    by_c = {c: errors(1 / (c * s)) for c in (2.5, 3.5, 5.0)}
    assert 1 / (3.5 * s) == pytest.approx(6.6, abs=0.05) and min(by_c, key=lambda c: by_c[c][3]) == 3.5
    assert by_c[3.5] == pytest.approx([10.8, 1.43, 0.19, 0.03], rel=0.05)
