"""Checks that the fused path means what the reference path means: values without noise, moments with it, gradients."""

import functools
from typing import Any

import torch
from mho_fast import Conversion, Precision
from torch import Tensor

from mho.effects import Nonideality
from mho.use import Tile
from mho_kit.bench import INPUTS, TILE, Bench, route_of, seeded, skip
from mho_kit.checks.base import Checks, EffectChecks, finite
from mho_kit.checks.statistics import compare_samples

# precision -> largest error of an output without side products, relative to the largest output: fp32 rounds, weights of the
# int8 tier have 15 bits and a sign
EXACT: dict[Precision, float] = {"fp32": 1e-6, "int8": 1e-4}
# The same of what an effect changes through side products, whose factors are 1/127 of their ranges in the int8 tier
SIDES: dict[Precision, float] = {"fp32": 1e-4, "int8": 0.02}
VALUES, MOMENTS, GRADIENTS = 64, 20_000, 16  # vectors, vectors, and mini-batches
AGE = 3600.0
VISIBLE = 0.05  # of the outputs
CAUSES = (
    "the fused path shows a method the vectors in blocks (site.part), calls it without autograd, and rounds phi(W) and psi(x) "
    "to 1/127 of their ranges: terms are pointwise, psi(x) fills [-1, 1]"
)


class PathChecks(Checks):
    """On a single-precision tile, in the tiers `fp32` and `int8`, against `precision: reference`."""

    def test_fused_values_are_those_of_the_reference_path(self) -> None:
        """Plain methods draw the same numbers for a chip on both paths, so their outputs are compared one by one."""
        if self._draws:
            skip("its noise is drawn anew on each path; the check of moments compares it")
        for precision in EXACT:
            x = self._single(precision).random(VALUES, INPUTS, number=5)
            fused, reference = self._on_both_paths(precision, x)
            finite(fused, f"{CAUSES}; precision {precision} gives")
            error, allowed = (fused - reference).abs(), self._allowed(precision, x, reference)
            worst = int((error / allowed).argmax())
            assert (error <= allowed).all(), (
                f"precision {precision} gives {float(fused.flatten()[worst]):.5g} where the reference path gives "
                f"{float(reference.flatten()[worst]):.5g}; {CAUSES}"
            )

    def test_fused_noise_has_the_moments_of_the_reference_path(self) -> None:
        """Mean and standard deviation of every output over 20,000 vectors, at alpha = 1e-5."""
        if not self._draws:
            skip("it declares no variance; the check of values compares the numbers themselves")
        for precision in EXACT:
            x = self._single(precision).random(1, INPUTS, number=5).expand(MOMENTS, -1)
            fused, reference = self._on_both_paths(precision, x)
            shift = self._allowed(precision, x[:1], reference.mean(0, keepdim=True))
            problem = compare_samples(fused, reference, shift.squeeze(0), SIDES[precision])
            assert not problem, f"precision {precision}, against the reference path: {problem}; {CAUSES}"

    def test_fused_gradients_are_those_of_the_reference_path(self) -> None:
        """Mode `through`: gradients of inputs, weights, input ranges and output scales, their means where weights are noisy."""
        for precision in EXACT:
            fused, reference = (self._trained(self._single(p)) for p in (precision, "reference"))
            for name, g in fused.items():
                wanted = reference[name]
                share = (SIDES if name == "output scales" else EXACT)[precision]
                problem = compare_samples(g, wanted, share * wanted.abs().amax().expand_as(wanted[0]), float("inf"))
                assert not problem, (
                    f"precision {precision}: the gradient of the {name} is not that of the reference path: {problem}; {CAUSES}"
                )

    # -- how ------------------------------------------------------------------------------------------------------
    _draws = False  # whether neighbouring Gaussian terms become one draw on the fused path
    _sided = False

    def _tile(self, bench: Bench, **about: Any) -> Tile:
        return self.made(bench, **about)

    def _single(self, precision: Precision) -> Bench:
        return Bench(self.tile, torch.float32, precision)

    def _fused(self, bench: Bench, **about: Any) -> Tile:
        """A tile of this bench, or a skip that says why it has no fused path."""
        made = self._tile(bench, **about)
        route = route_of(made)
        if not route.fused and bench.precision != "reference":
            skip(f"it runs on the reference path: {route.why}")
        return made

    @torch.no_grad()
    def _on_both_paths(self, precision: Precision, x: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of chip 0 in this arithmetic, and on the reference path."""
        fused, reference = (self._fused(self._single(p)).program(seed=0).age(AGE) for p in (precision, "reference"))
        return fused(x).double(), reference(x).double()

    def _allowed(self, precision: Precision, x: Tensor, outputs: Tensor) -> Tensor:
        """The error of every output that arithmetic explains."""
        made = self._tile(self._single("reference")).program(seed=0).age(AGE)
        allowed = EXACT[precision] * outputs.abs().amax().expand_as(outputs)
        conversion = Conversion.of(made.tiles.spec.adc)
        if conversion.kind != torch.float32:  # a code may move by one
            allowed = allowed + 1.01 * conversion.step * made.tiles.digital_scale().detach().sum(0)
        if self._sided:
            allowed = allowed + SIDES[precision] * (outputs - self._plain(x)).abs().amax()
        return allowed

    def _plain(self, x: Tensor) -> Tensor:
        return self._single("reference").tile().program(seed=0).age(AGE)(x).detach()

    def _trained(self, bench: Bench) -> dict[str, Tensor]:
        """Name -> gradients [mini-batch, ...] of a training layer, of one and the same function of its outputs."""
        dac = bench.changes.get("dac", TILE["dac"])
        learned = {"dac": {**dac, "range": "learned"}} if isinstance(dac, dict) else {}
        made = self._fused(bench, tile=learned, out_scale="column", inject={"scale": 1.0}).train()
        if why := route_of(made).by_reference * (bench.precision != "reference"):
            skip(f"its gradients come from the reference path: {why}")
        tiles = made.tiles
        with torch.no_grad():
            tiles.input_range.fill_(0.8)
        x = bench.random(VALUES, INPUTS, number=5).requires_grad_()
        sign = bench.random(VALUES, len(made.weight), number=6)
        asked = {"weights": made.weight, "input ranges": tiles.input_range, "output scales": tiles.out_scale}
        asked = {"inputs": x} | {name: p for name, p in asked.items() if p.requires_grad}
        drawn = []
        for seed in range(GRADIENTS):
            with seeded(seed):
                drawn.append(torch.autograd.grad((made(x) * sign).sum(), tuple(asked.values())))
        return {name: torch.stack(g).double() for name, g in zip(asked, zip(*drawn))}


class EffectPathChecks(PathChecks, EffectChecks):
    """The same for effects."""

    @property
    def _draws(self) -> bool:  # type: ignore[override]
        return self.spec.writes("variance")

    @property
    def _sided(self) -> bool:  # type: ignore[override]
        return bool(self.spec.sides)

    def _tile(self, bench: Bench, **about: Any) -> Tile:
        return bench.tile(self._visible, **about)

    @functools.cached_property
    def _visible(self) -> Nonideality:
        """The effect, strong enough that single precision sees what side products do on a small tile."""
        if not self.spec.sides or self.spec.strength is None:
            return self.spec
        with_it, without = (self.bench.tile(*e).program(seed=0).age(AGE)(self.bench.x) for e in ((self.spec,), ()))
        share = float((with_it - without).detach().norm() / without.norm())
        factor = VISIBLE / share if 0 < share < VISIBLE else 1.0
        return self.spec.model_copy(update={self.spec.strength: factor * getattr(self.spec, self.spec.strength)})
