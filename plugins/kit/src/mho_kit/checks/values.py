"""Checks of what the stages of an effect return: shape, dtype, device, finite values, untouched inputs."""

import torch
from torch import Tensor

from mho_kit.bench import OF_DEVICES, PER_VECTOR, VECTORS
from mho_kit.checks.base import CallChecks, EffectChecks, finite, same


class ValueChecks(EffectChecks, CallChecks):
    def test_keeps_the_shape(self) -> None:
        self.keeps_the_shape(mvm=(VECTORS, *self.bench.w.shape[:2]))

    def test_keeps_float32(self) -> None:
        self.keeps(torch.float32)

    def test_keeps_float64(self) -> None:
        self.keeps(torch.float64)

    def test_keeps_bfloat16(self) -> None:
        """Of conductances and weights; vectors are computed in float32 at least."""
        self.keeps(torch.bfloat16, left_out=PER_VECTOR)

    def test_accepts_extra_leading_axes(self) -> None:
        """Inputs of convolutions and sequences have more axes in front of tile and row."""
        for stage in set(self.spec.stages()) & set(PER_VECTOR):
            extra = self.bench.arguments(stage, leading=(2,))
            new = self.bench.call(self.spec, stage, arguments=extra)
            wanted = (VECTORS, 2, *self.bench.call(self.spec, stage).shape[1:])
            assert new.shape == wanted, (
                f"{stage} turns {tuple(extra[0].shape)} into {tuple(new.shape)}; count axes from the end: sum(-1), unsqueeze(-1)"
            )

    def test_leaves_its_inputs_alone(self) -> None:
        for stage in self.spec.stages():
            arguments = self.bench.arguments(stage)
            site = self.bench.site(self.spec, stage, t=3600.0, target=arguments[0] if stage in OF_DEVICES else None)
            known = {"target": site.target, "programmed": site.programmed, **site.constants}
            watched: dict[str, Tensor] = {f"argument {i}": a for i, a in enumerate(arguments)}
            watched |= {f"site.{n}": v for n, v in known.items() if v is not None}
            before = {n: v.clone() for n, v in watched.items()}
            self.bench.call(self.spec, stage, arguments=arguments, site=site)
            changed = ", ".join(n for n, v in watched.items() if not same(v, before[n]))
            assert not changed, f"{stage} changes {changed} in place; write g = g * a, not g *= a or g[...] = a"

    def test_is_finite(self) -> None:
        for stage in self.spec.stages():
            for t in self.ages if stage == "age" else (0.0,):
                finite(self.bench.call(self.spec, stage, t=t), f"at t = {t:g} s {stage} gives")

    def test_is_finite_at_the_edges(self) -> None:
        """Zero and full conductances, weights and inputs occur in every layer."""
        for stage, (call, arguments) in self.calls(self.bench).items():
            for value in (0.0, self._full(stage)):
                new = call(*(torch.full_like(a, value) for a in arguments))
                assert torch.isfinite(new).all(), (
                    f"{stage} gives NaN or infinity where everything is {value:g}; clamp before log, power and division"
                )

    def test_returns_a_new_value(self) -> None:
        """It does something at all in the spec under test."""
        changed = any(
            stage in ("mvm", "passes") or not same(arguments[0], call(*arguments))
            for stage, (call, arguments) in self.calls(self.bench).items()
        )
        assert changed, "it changes nothing; test a spec whose effect can be seen, e.g. a larger strength"

    def test_stays_in_its_units(self) -> None:
        """Conductances are µS, weights, inputs and outputs are relative to the full range."""
        for stage, (call, arguments) in self.calls(self.bench).items():
            full, top = self._full(stage), float(call(*arguments).detach().abs().max())
            limit = 100 * max(full, float(arguments[0].abs().max()))
            assert top <= limit, f"{stage} gives {top:.3g}, full range is {full:g}; check the units"

    def test_cells_are_alone_where_it_says_so(self) -> None:
        """`cellwise` lets the core run program, age and read in blocks."""
        if not self.spec.cellwise:
            return
        for stage in set(self.spec.stages()) & {"program", "age", "read"}:
            value = self.bench.arguments(stage)[0]
            other = value.clone()
            other[..., ::2] = value[..., ::2].flip(-1) * 0.7
            a, b = (self.bench.call(self.spec, stage, arguments=(v,)) for v in (value, other))
            assert same(a[..., 1::2], b[..., 1::2]), (
                f"{stage} of a cell depends on other cells; remove cellwise = True, or the sum, mean or maximum"
            )

    def _full(self, stage: str) -> float:
        return self.bench.geometry.g_max if stage in OF_DEVICES else 1.0
