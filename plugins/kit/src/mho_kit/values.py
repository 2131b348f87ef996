"""Checks of what the stages of an effect return: shape, dtype, device, finite values, untouched inputs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from mho_kit.base import EffectChecks, same
from mho_kit.bench import PER_VECTOR, VECTORS, Bench

HINTS = "tensors it makes must follow their input: torch.zeros_like(g), g.new_tensor(...), site.randn_like(g)"


class ValueChecks(EffectChecks):
    def test_keeps_the_shape(self) -> None:
        for stage in self.spec.stages():
            value = self.bench.arguments(stage)[0]
            wanted = value.shape if stage != "mvm" else (*value.shape[:-1], self.bench.array.layout.out_features)
            given = self.bench.call(self.spec, stage).shape
            assert given == wanted, f"{stage} returns {tuple(given)}, the core needs {tuple(wanted)}"

    def test_keeps_float32(self) -> None:
        self._keeps(torch.float32, self.spec.stages())

    def test_keeps_float64(self) -> None:
        self._keeps(torch.float64, self.spec.stages())

    def test_keeps_bfloat16(self) -> None:
        """Of conductances and weights; vectors are computed in float32 at least."""
        self._keeps(torch.bfloat16, tuple(s for s in self.spec.stages() if s not in PER_VECTOR))

    def _keeps(self, dtype: torch.dtype, stages: tuple[str, ...]) -> None:
        bench = Bench(self.tile, dtype)
        for stage in stages:
            new = bench.call(self.spec, stage)
            assert new.dtype == dtype, f"{stage} turns {dtype} into {new.dtype}; {HINTS}"
            assert torch.isfinite(new).all(), f"{stage} gives NaN or infinity in {dtype}"

    def test_keeps_the_device(self) -> None:
        """Tried on torch's meta device, which every machine has."""
        bench = Bench(self.tile)
        for stage in self.spec.stages():
            arguments = tuple(a.to("meta") for a in bench.arguments(stage))
            try:
                new = bench.call(self.spec, stage, arguments=arguments, target=bench.target().to("meta"))
            except (RuntimeError, NotImplementedError) as error:
                assert "device" not in str(error), f"{stage} mixes devices ({error}); {HINTS}"
                continue  # it looks at values, which this device has not
            assert new.device.type == "meta", f"{stage} returns a tensor on {new.device}; {HINTS}"

    def test_accepts_extra_leading_axes(self) -> None:
        """Inputs of convolutions and sequences have more axes in front of tile and row."""
        for stage in set(self.spec.stages()) & set(PER_VECTOR):
            plain, extra = self.bench.arguments(stage), self.bench.arguments(stage, leading=(2,))
            new = self.bench.call(self.spec, stage, arguments=extra)
            wanted = (VECTORS, 2, *self.bench.call(self.spec, stage, arguments=plain).shape[1:])
            assert new.shape == wanted, (
                f"{stage} turns {tuple(extra[0].shape)} into {tuple(new.shape)}; count axes from the end: sum(-1), unsqueeze(-1)"
            )

    def test_leaves_its_inputs_alone(self) -> None:
        for stage in self.spec.stages():
            arguments = self.bench.arguments(stage)
            site = self.bench.site(
                self.spec, stage, t=3600.0, target=arguments[0] if stage in ("program", "age") else None
            )
            known = {"target": site.target, "programmed": site.programmed, **site.constants}
            watched: dict[str, Tensor] = {f"argument {i}": a for i, a in enumerate(arguments)}
            watched |= {f"site.{n}": v for n, v in known.items() if v is not None}
            before = {n: v.clone() for n, v in watched.items()}
            self.bench.call(self.spec, stage, arguments=arguments, site=site)
            changed = [n for n, v in watched.items() if not same(v, before[n])]
            assert not changed, (
                f"{stage} changes {', '.join(changed)} in place; write g = g * a, not g *= a or g[...] = a"
            )

    def test_is_finite(self) -> None:
        for stage in self.spec.stages():
            for t in self.ages if stage == "age" else (0.0,):
                new = self.bench.call(self.spec, stage, t=t)
                assert torch.isfinite(new).all(), f"{stage} gives NaN or infinity" + (f" at t = {t:g} s" if t else "")

    def test_is_finite_at_the_edges(self) -> None:
        """Zero and full conductances, weights and inputs occur in every layer."""
        for stage in self.spec.stages():
            full = self.bench.array.spec.device.g_max if stage in ("program", "age") else 1.0
            for value in (0.0, full):
                arguments = tuple(torch.full_like(a, value) for a in self.bench.arguments(stage))
                new = self.bench.call(self.spec, stage, arguments=arguments)
                assert torch.isfinite(new).all(), (
                    f"{stage} gives NaN or infinity where everything is {value:g}; clamp before log, power and division"
                )

    def test_returns_a_new_value(self) -> None:
        """It does something at all in the spec under test."""
        changed = False
        for stage in self.spec.stages():
            value, new = self.bench.arguments(stage), self.bench.call(self.spec, stage)
            changed |= stage in ("mvm", "passes") or not same(value[0], new)
        assert changed, "it changes nothing; test a spec whose effect can be seen, e.g. a larger strength"

    def test_stays_in_its_units(self) -> None:
        """Conductances are µS, weights, inputs and outputs are relative to the full range."""
        for stage in self.spec.stages():
            value = self.bench.arguments(stage)[0]
            full = self.bench.array.spec.device.g_max if stage in ("program", "age") else 1.0
            new, limit = self.bench.call(self.spec, stage), 100 * max(full, float(value.abs().max()))
            assert new.abs().max() <= limit, (
                f"{stage} gives {float(new.abs().max()):.3g}, full range is {full:g}; check the units"
            )

    def test_a_copy_does_the_same(self) -> None:
        other = copy.deepcopy(self.spec)
        for stage in self.spec.stages():
            equal = same(self.bench.call(self.spec, stage), self.bench.call(other, stage))
            assert equal, (
                f"{stage} of a deep copy gives other values; keep nothing outside the fields, not even by id()"
            )

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
