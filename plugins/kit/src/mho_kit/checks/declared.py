"""Checks of declared terms: bounded sides, variances that are variances, and agreement with a plain method."""

import torch
from torch import Tensor

from mho.effects import Nonideality, product
from mho_kit.bench import skip
from mho_kit.checks.base import EffectChecks
from mho_kit.checks.statistics import compare


class DeclaredChecks(EffectChecks):
    def _products(self) -> dict[str, Tensor]:
        x, w = self.bench.arguments("mvm")
        site = self.bench.site(self.spec, "accumulate")
        return {n: product(s.psi(x), s.phi(w, site)) for n, s in self.spec.sides.items()}

    def _declares(self) -> None:
        if not self.spec.declares():
            skip("the effect declares no terms")

    def test_sides_are_used(self) -> None:
        if self.spec.sides:
            assert self.spec.declares(), "it names sides, but no term over them: write shift, variance or transfer"

    def test_sides_keep_the_shape(self) -> None:
        x, w = self.bench.arguments("mvm")
        for name, side in self.spec.sides.items():
            phi, psi = side.phi(w, self.bench.site(self.spec, "accumulate")), side.psi(x)
            assert phi.shape == w.shape, f"side {name!r}: phi(w, site) must be shaped like w, got {tuple(phi.shape)}"
            assert psi.shape == x.shape, f"side {name!r}: psi(x) must be shaped like x, got {tuple(psi.shape)}"

    def test_sides_are_bounded(self) -> None:
        """The fast path computes side products in integers of the same range as x; that of phi(w) it looks for."""
        grid = torch.linspace(-1, 1, 257, dtype=self.bench.dtype)
        for name, side in self.spec.sides.items():
            assert side.psi(grid).abs().max() <= 1 + 1e-6, f"side {name!r}: psi must map [-1, 1] into itself; move the factor"

    def test_terms_fit_the_outputs(self) -> None:
        self._declares()
        y, products = product(*self.bench.arguments("mvm")), self._products()
        site = self.bench.site(self.spec, self._stage)
        for term in ("shift", "variance"):
            if self.spec.writes(term):
                value = torch.as_tensor(getattr(self.spec, term)(site, **products))
                fits = torch.broadcast_shapes(value.shape, y.shape) == y.shape
                assert fits, f"{term} gives {tuple(value.shape)}, which does not fit y {tuple(y.shape)}"

    def test_variance_is_not_negative(self) -> None:
        if not self.spec.writes("variance"):
            return
        site = self.bench.site(self.spec, self._stage)
        for factor in (0.0, 1.0):
            value = torch.as_tensor(self.spec.variance(site, **{n: factor * p for n, p in self._products().items()}))
            assert (value >= 0).all(), f"variance is {float(value.min()):.3g} somewhere; clamp it, or use |w| and x^2 as sides"

    def test_transfer_is_pointwise(self) -> None:
        """An output depends on its own y alone."""
        if not self.spec.writes("transfer"):
            return
        y = product(*self.bench.arguments("mvm"))
        other = y.clone()
        other[..., ::2] = -other[..., ::2] * 0.5
        a, b = (self.spec.transfer(v, self.bench.site(self.spec, self._stage)) for v in (y, other))
        assert torch.equal(a[..., 1::2], b[..., 1::2]), "transfer of an output looks at other outputs; use a plain `output`"

    def test_plain_method_agrees_with_the_declaration(self) -> None:
        """Who writes both is checked: the same mean and variance over many draws."""
        self._declares()
        stage = self._stage
        if not self.spec.writes(stage):
            return
        plain = torch.stack([self.bench.call(self.spec, stage, chip=k) for k in range(3000)])
        mean, *_ = self.bench.arguments(stage)
        site = self.bench.site(self.spec, stage)
        products = self._products() if stage == "accumulate" else {}
        std = torch.zeros_like(mean)
        if self.spec.writes("shift"):
            mean = mean + self.spec.scaled_shift(site, products)
        if self.spec.writes("transfer"):
            mean = self.spec.scaled_transfer(mean, site)
        if self.spec.writes("variance"):
            std = std + torch.as_tensor(self.spec.scaled_variance(site, products)).sqrt()
        if problem := compare(plain, mean, std, tolerance=1e-6):
            raise AssertionError(
                f"the plain `{stage}` and the declared terms disagree: {problem}; remove the plain method, the core derives it"
            )

    @property
    def _stage(self) -> str:
        return "accumulate" if self.spec.sides else "output"

    def test_backward_is_known(self) -> None:
        known = ("straight", "exact", "none")
        assert self.spec.backward in known, f"backward = {self.spec.backward!r}; choose one of {', '.join(known)}"

    def test_replaces_the_product_alone(self) -> None:
        """At most one effect of a tile may write `mvm`."""
        if self.spec.writes("mvm"):
            assert Nonideality.mvm is not type(self.spec).mvm, "mvm is not overridden"
