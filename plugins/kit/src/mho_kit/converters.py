"""The contract of DACs and ADCs: levels, saturation, gradients, a declared transfer, and errors that belong to the chip."""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from mho.effects import Adc, Converter, Dac, Rounding, Site
from mho_kit.bench import VECTORS, Bench, Recorder, route_of, skip
from mho_kit.checks.base import Call, same
from mho_kit.checks.parts import PartChecks
from mho_kit.checks.randomness import does_not_mix_vectors

SWEEP = 4001
ROUNDINGS: tuple[Rounding, ...] = ("through", "zero", "ste")


class ConverterContract(PartChecks):
    """Everything a DAC or an ADC promises to the core, as named checks for pytest.

    class TestSarAdc(ConverterContract):
        spec = SarAdc(sigma=0.02)

    Of a declared one `transfer` is tried too, on a chip for which `prepare` has been called: pointwise, without draws of its
    own, on the fast path.
    """

    BASE = Adc
    METHODS: ClassVar[tuple[str, ...]] = ("convert", "prepare", "transfer")
    spec: ClassVar[Converter]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if isinstance(getattr(cls, "spec", None), Dac):
            cls.BASE, cls.METHODS = Dac, ("encode", "encode_exactly", "prepare", "transfer")

    @property
    def _full(self) -> float:
        """The largest value that is converted: the output bound, or the input range 1."""
        limit = self.spec.limit if isinstance(self.spec, Adc) else 1.0
        return limit if limit < float("inf") else 10.0

    @property
    def _lowest(self) -> float:
        """The smallest value that is converted, in units of the largest."""
        return self.spec.lowest if isinstance(self.spec, Dac) else -1.0

    def _convert(self, v: Tensor, site: Recorder, rounding: Rounding = "through") -> Tensor:
        """v [vector, tile, ...] -> digital or analog values."""
        if isinstance(self.spec, Adc):
            return self.spec.convert(v, rounding, site)
        assert isinstance(self.spec, Dac)
        alpha = v.new_ones(v.shape[-2], 1)
        if rounding == "through":
            return self.spec.encode(v, alpha, 0.0, site.rows.n.to(v.dtype), site)
        return self.spec.encode_exactly(v, alpha, rounding, site)

    def _values(self, bench: Bench) -> Tensor:
        """[vector, tile, out] or [vector, tile, row], a little beyond the full range."""
        tiles, columns, height = bench.w.shape
        return 1.3 * self._full * bench.random(VECTORS, tiles, columns if isinstance(self.spec, Adc) else height, number=7)

    def calls(self, bench: Bench, device: str = "cpu") -> dict[str, Call]:
        site, values = bench.converter_site(self.spec, device=device), (self._values(bench),)
        named = "convert" if isinstance(self.spec, Adc) else "encode"
        found: dict[str, Call] = {
            named: (lambda v: self._convert(v, site), values),
            "rounding zero": (lambda v: self._convert(v, site, "zero"), values),
        }
        if self.spec.declares:
            found["transfer"] = (lambda v: self.spec.transfer(v, self._prepared(bench, device=device)), values)
        return found

    def _prepared(self, bench: Bench, chip: int = 0, device: str = "cpu") -> Recorder:
        """The site of `transfer` on a chip, with what `prepare` has set."""
        site = bench.converter_site(self.spec, chip, device=device)
        before = Site(site.geometry, site.stream, site.path, "prepare")
        self.spec.prepare(before)
        return replace(site, stage="input" if isinstance(self.spec, Dac) else "output", constants=before.constants)

    def _declares(self) -> None:
        if not self.spec.declares:
            skip("it declares no transfer")

    def _converted(self, low: float, high: float) -> tuple[Tensor, Tensor, set[str]]:
        """Values [SWEEP, tile, out or row] from low to high in units of the full range, what they become on chip 0, and how
        often the draws of that change."""
        v = self._full * torch.linspace(max(low, self._lowest), high, SWEEP, dtype=torch.float64)
        v = v[:, None, None].expand(SWEEP, *self._values(self.bench).shape[1:])
        site = self.bench.converter_site(self.spec, vectors=SWEEP)
        return v, self._convert(v, site), set(site.asked)

    @property
    def _bounded(self) -> bool:
        return not (isinstance(self.spec, Adc) and self.spec.bound is None)

    def test_keeps_the_shape(self) -> None:
        self.keeps_the_shape()

    def test_saturates(self) -> None:
        """R003-03: on both sides, whatever comes."""
        if not self._bounded:
            skip("it has no bound")
        top = float(self._convert(1e4 * self._values(self.bench), self.bench.converter_site(self.spec)).abs().max())
        assert top <= self._full * (1 + 1e-6), f"values up to {top:.4g} come out; the range ends at {self._full:g}"

    def test_has_as_many_levels_as_its_bits(self) -> None:
        """b bits are at most 2^b levels, for each converter; draws per vector are left out."""
        bits = self.spec.bits
        _, new, asked = self._converted(-1.2, 1.2)
        if bits is None or not self._bounded:
            skip("it does not round")
        if {"vector", "call"} & asked:
            skip("it adds noise of its own to every conversion")
        levels = max(len(column.unique()) for column in new.flatten(1).T)
        assert levels <= 2**bits, f"{levels} different values come out of {bits} bits; round to 2^bits - 1 levels"

    def test_values_keep_their_unit(self) -> None:
        """An ADC gives analog units again, a DAC x / alpha: inside the range the error is a fraction of the range."""
        v, new, _ = self._converted(-0.9, 0.9)
        error = float((new - v).square().mean().sqrt())
        assert error < 0.3 * self._full, (
            f"values inside the range come out wrong by {error:.3g} (RMS; range {self._full:g}); check units and sign"
        )

    def test_larger_values_give_larger_codes(self) -> None:
        """On the whole: mismatch may make single steps go down."""
        new = self._converted(-1.0, 1.0)[1][: SWEEP - 1].unflatten(0, (8, -1)).mean(1)
        assert (new.diff(dim=0) > 0).all(), "the mean code of larger values is not larger; check the order of the bits"

    def test_all_roundings_give_the_same_values(self) -> None:
        values, site = self._values(self.bench), self.bench.converter_site(self.spec)
        first, *others = (self._convert(values, site, r) for r in ROUNDINGS)
        assert all(torch.allclose(first, r, atol=1e-9) for r in others), (
            "the rounding mode changes values; it may change gradients only"
        )

    def test_gradient_passes_inside_the_range(self) -> None:
        values = (0.5 * self._values(self.bench)).requires_grad_()
        self._convert(values, self.bench.converter_site(self.spec)).sum().backward()
        g = values.grad
        assert g is not None and torch.isfinite(g).all() and g.abs().mean() > 0.1, (
            "rounding through: hardly any gradient passes; use mho.effects.straight, or super()'s"
        )

    def test_gradient_stops_where_it_saturates(self) -> None:
        """R003-65: a saturated code has no gradient, or training would push weights further out."""
        if not self._bounded:
            skip("it has no bound")
        values = (100 * self._full * torch.ones_like(self._values(self.bench))).requires_grad_()
        new = self._convert(values, self.bench.converter_site(self.spec))
        if new.requires_grad:
            new.sum().backward()
        g = values.grad
        assert g is None or not g.any(), "gradient passes where the converter saturates; mask it"

    def test_a_chip_keeps_its_errors(self) -> None:
        """Errors that are drawn per chip are the same in every call and at every time, and differ between chips."""
        values, site = self._values(self.bench), self.bench.converter_site(self.spec)
        one = self._convert(values, site)
        if "chip" not in site.asked:
            skip("it draws nothing for each chip")
        other, later = (self._convert(values, self.bench.converter_site(self.spec, **at)) for at in ({"chip": 1}, {"call": 1}))
        assert not same(one, other), "it draws numbers for each chip, but two chips are the same; use what you draw"
        if not {"vector", "call"} & set(site.asked):
            assert same(one, later), "one chip has other errors in another call; draw per='chip'"

    def test_does_not_mix_vectors(self) -> None:
        """Outputs do not depend on how the vectors are cut into batches."""
        assert does_not_mix_vectors(self), (
            "outputs depend on how the vectors are cut into batches; no mean or maximum over axis 0"
        )

    # -- declared ---------------------------------------------------------------------------------------------
    def test_lowest_is_where_inputs_are_clipped(self) -> None:
        """In units of the input range: -1 is a symmetric DAC, 0 an unsigned one."""
        if not isinstance(self.spec, Dac):
            skip("it is no DAC")
        low = self.spec.lowest
        assert -1 <= low <= 0, f"lowest is {low:g}; it must be from -1 (symmetric) to 0 (unsigned)"
        least = float(self._convert(-1e4 * self._values(self.bench).abs(), self.bench.converter_site(self.spec)).min())
        half = 0.5 / self.spec.top if self.spec.top else 0.0  # of a step: where lowest lies between two levels
        assert least >= low - half - 1e-6, f"values down to {least:.4g} come out; lowest is {low:g}"

    def test_transfer_keeps_the_unit(self) -> None:
        """What the circuit makes of a value is that value, about."""
        self._declares()
        v = 0.9 * self._full * self.bench.random(*self._values(self.bench).shape, number=7).clamp(min=self._lowest)
        error = float((self.spec.transfer(v, self._prepared(self.bench)) - v).square().mean().sqrt())
        assert error < 0.3 * self._full, (
            f"transfer changes values by {error:.3g} (RMS; range {self._full:g}); check units: a DAC's are in [-1, 1], an "
            "ADC's in analog units"
        )

    def test_transfer_is_pointwise(self) -> None:
        """A result depends on its own value alone, and on the constants of its place: the fast path shows it parts."""
        self._declares()
        v = self._values(self.bench)
        whole = self.spec.transfer(v, self._prepared(self.bench))
        first = self.spec.transfer(v[:2], replace(self._prepared(self.bench), part=slice(0, 2)))
        other = v.clone()
        other[::2, :, ::2] *= -0.5
        changed = self.spec.transfer(other, self._prepared(self.bench))
        stays = torch.ones_like(v, dtype=torch.bool)
        stays[::2, :, ::2] = False
        assert same(first, whole[:2]) and same(changed[stays], whole[stays]), (
            "transfer of a value looks at other values or vectors; no mean or maximum, else write convert or encode instead"
        )

    def test_transfer_draws_nothing(self) -> None:
        self._declares()
        site = self._prepared(self.bench)
        self.spec.transfer(self._values(self.bench), site)
        assert not site.asked, "transfer draws random numbers; draw constants of the chip in prepare: site.offset = ..."

    def test_constants_belong_to_the_chip(self) -> None:
        """What `prepare` sets is the same for a chip every time, and drawn per chip."""
        self._declares()
        first, again, other = (self._prepared(self.bench, chip) for chip in (0, 0, 1))
        assert all(same(v, again.constants[n]) for n, v in first.constants.items()), (
            "prepare gives one chip two sets of constants; draw with site.randn_like(v, per='chip', name=...)"
        )
        assert first.constants.keys() == other.constants.keys(), "prepare sets other names on another chip"

    def test_a_declared_one_stays_on_the_fast_path(self) -> None:
        self._declares()
        route = route_of(self.made(Bench(self.tile, torch.float32)))
        assert route.fused, f"it runs on the reference path: {route.why}; write transfer alone, not convert, encode or used_range"
