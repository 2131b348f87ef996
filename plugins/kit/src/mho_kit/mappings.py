"""The contract of mappings: scales that fit, conductances that devices have, weights that come back."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from mho.effects import Geometry, Mapping
from mho_kit.bench import Bench, on_device
from mho_kit.checks.base import Call, finite, same
from mho_kit.checks.parts import PartChecks

PAIRS = {"active": 0.0, "both": 0.1, "single": 0.1}  # pair -> g_min relative to g_max


class MappingContract(PartChecks):
    """Everything a mapping promises to the core, as named checks for pytest.

    class TestMaxFill(MappingContract):
        spec = MaxFill(devices=3)
    """

    BASE = Mapping
    METHODS = ("scale", "split", "conductances", "weights")

    def about(self) -> dict[str, Any]:
        device = {"device": {"pair": "single", "g_max": self.bench.geometry.g_max}} if self.spec.unsigned else {}
        return {"tile": {"mapping": self.spec, **device}}

    @property
    def pairs(self) -> list[str]:
        """The arrangements of devices that the mapping is for."""
        return ["single"] if self.spec.unsigned else ["active", "both"]

    def calls(self, bench: Bench, device: str = "cpu") -> dict[str, Call]:
        spec, geometry = self.spec, on_device(bench.geometry, device)
        g = spec.conductances(bench.w, "active", bench.geometry)
        return {
            "scale": (lambda w: spec.gamma(w, geometry), (_unscaled(bench),)),
            "split": (spec.split, (bench.w,)),
            "conductances": (lambda w: spec.conductances(w, "active", geometry), (bench.w,)),
            "weights": (lambda g, w: spec.weights(g, w.sign(), "active", geometry), (g, bench.w)),
        }

    def _with(self, pair: str) -> tuple[Tensor, Geometry]:
        """Normalised weights [tile, out, row] from -1 to 1, and the geometry for a pair."""
        w, geometry = self.bench.w, self.bench.geometry
        w = torch.where(w.abs() > 0.8, w.sign(), w)
        return w.abs() if pair == "single" else w, geometry._replace(g_min=PAIRS[pair] * geometry.g_max)

    def test_works_on_tiles_of_one_row(self) -> None:
        """And of one output."""
        finite(self.on_a_chip(rows=1, columns=self.spec.columns), "on tiles of one row and one output outputs are")

    def test_slices_add_up(self) -> None:
        """To -1, 0 and 1 exactly; what lies between may be rounded."""
        w = self.bench.w.sign() * (self.bench.w.abs() > 0.5)
        v, factors = self.spec.split(w), torch.tensor(self.spec.factors, dtype=w.dtype)[:, None]
        wanted = (*w.shape[:2], len(factors), w.shape[2])
        assert tuple(v.shape) == wanted, f"split gives {tuple(v.shape)}, the core needs [tile, out, slice, row] = {wanted}"
        low = 0 if self.spec.unsigned else -1
        assert float(v.min()) >= low and float(v.max()) <= 1, f"slices must be within [{low}, 1]"
        worst = float(((factors * v).sum(-2) + self.spec.offset(0.0) - w).abs().max())
        assert worst <= 1e-9, f"offset + sum of factors times slices misses -1, 0 or 1 by {worst:.3g}"

    def test_scales_every_column_of_every_tile(self) -> None:
        w = _unscaled(self.bench)
        gamma, wanted = self.spec.gamma(w, self.bench.geometry), tuple(w.shape[:2])
        assert tuple(gamma.shape) == wanted, f"scale gives {tuple(gamma.shape)}, the core needs [tile, out] = {wanted}"
        assert (gamma > 0).all(), "scale gives negative numbers; it is the weight that fills the device range"

    def test_conductances_are_within_the_device_range(self) -> None:
        for pair in self.pairs:
            w, geometry = self._with(pair)
            g = self.spec.conductances(w, pair, geometry)
            assert tuple(g.shape[1:]) == tuple(w.shape), (
                f"pair {pair}: conductances must be [dev, {', '.join(map(str, w.shape))}], got {tuple(g.shape)}"
            )
            low, high = float(g.min()), float(g.max())
            inside = low >= geometry.g_min * (1 - 1e-6) and high <= geometry.g_max * (1 + 1e-6)
            assert inside, (
                f"pair {pair}: conductances from {low:.4g} to {high:.4g} uS for weights from -1 to 1; devices have "
                f"{geometry.g_min:g} to {geometry.g_max:g} uS"
            )

    def test_weights_come_back(self) -> None:
        """Without any effect a mapping loses nothing."""
        for pair in self.pairs:
            w, geometry = self._with(pair)
            again = self.spec.weights(self.spec.conductances(w, pair, geometry), w.sign(), pair, geometry)
            idle = geometry.g_min / (geometry.g_max - geometry.g_min) if pair == "single" else 0.0
            worst = float((again - idle - w).abs().max())
            assert worst <= 1e-9, f"pair {pair}: weights come back wrong by {worst:.3g}; `weights` must undo `conductances`"

    def test_weights_follow_the_conductances(self) -> None:
        """More current from the devices of a weight's sign is more weight: `weights` is linear in g."""
        for pair in self.pairs:
            w, geometry = self._with(pair)
            g = self.spec.conductances(w, pair, geometry)
            d = 0.01 * g * self.bench.random(*g.shape, number=6)
            base, one, two = (self.spec.weights(g + k * d, w.sign(), pair, geometry) for k in (0, 1, 2))
            linear = torch.allclose(two - base, 2 * (one - base), atol=1e-9)
            assert linear and not same(one, base), (
                f"pair {pair}: `weights` is not linear in the conductances; currents of devices add"
            )

    def test_clipping_never_widens_the_range(self) -> None:
        w, geometry = _unscaled(self.bench), self.bench.geometry
        both = (type(self.spec).model_validate({**self.values(), "clip": c}) for c in ("none", "1 sigma"))
        plain, clipped = (spec.gamma(w, geometry) for spec in both)
        assert (clipped <= plain * (1 + 1e-9)).all(), "with `clip` a column gets a larger gamma; leave `gamma` alone"

    def test_padding_does_not_count(self) -> None:
        """Added rows hold zeros: another tile height gives the same scale."""
        w, geometry = _unscaled(self.bench), self.bench.geometry
        rows = geometry.rows
        padded = rows._replace(depth=pad(rows.depth, (0, 3)), used=pad(rows.used, (0, 3)))
        a, b = self.spec.gamma(w, geometry), self.spec.gamma(pad(w, (0, 3)), geometry._replace(rows=padded))
        assert torch.allclose(a, b, rtol=1e-9), "the scale depends on the padding; use site-independent sums and maxima"


def _unscaled(bench: Bench) -> Tensor:
    """Weights of a layer, [tile, out, row], whose columns have different ranges."""
    return bench.w * torch.linspace(0.1, 0.5, bench.w.shape[1], dtype=bench.dtype)[:, None]
