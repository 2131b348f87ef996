"""The contract of drift compensations: the gain that undoes a loss, and nothing else."""

from typing import ClassVar

import torch
from torch import Tensor

from mho.effects import Compensation, Nonideality, Site
from mho_kit.bench import Bench, on_device
from mho_kit.checks.base import Call
from mho_kit.checks.parts import PartChecks


class Fade(Nonideality, kind="witness.fade"):
    """Every conductance loses the same share: what a compensation should undo."""

    source: ClassVar[str] = "mho"

    def age(self, g: Tensor, t: float, site: Site) -> Tensor:
        return g * (1 + t) ** -0.05


class CompensationContract(PartChecks):
    """Everything a drift compensation promises to the core, as named checks for pytest.

    class TestMedianDrift(CompensationContract):
        spec = MedianDrift()
    """

    BASE = Compensation
    METHODS = ("gain",)

    def _read_outs(self, bench: Bench) -> Tensor:
        """[vector, tile, out] as the core takes them, repeats included."""
        return (bench.random(16, *bench.w.shape[:2], number=8) + 0.1).repeat(self.spec.repeats, 1, 1)

    def calls(self, bench: Bench, device: str = "cpu") -> dict[str, Call]:
        geometry = on_device(bench.geometry, device)
        y = self._read_outs(bench)
        return {"gain": (lambda reference, now: self.spec.gain(reference, now, geometry), (y, 0.8 * y))}

    def _gain(self, factor: float) -> Tensor:
        y = self._read_outs(self.bench)
        return self.spec.gain(y, factor * y, self.bench.geometry)

    def test_gives_a_gain_for_every_column_of_every_tile(self) -> None:
        gain, wanted = self._gain(0.8), tuple(self.bench.w.shape[:2])
        assert tuple(gain.shape) == wanted, f"gain gives {tuple(gain.shape)}, the core needs [tile, out] = {wanted}"

    def test_the_gain_is_one_where_nothing_has_changed(self) -> None:
        gain = self._gain(1.0)
        assert torch.allclose(gain, torch.ones_like(gain)), (
            f"equal read-outs give gains from {float(gain.min()):.4g} to {float(gain.max()):.4g}; they must give 1"
        )

    def test_a_common_loss_is_undone(self) -> None:
        for factor in (0.5, 0.9, 1.2):
            gain = self._gain(factor)
            assert torch.allclose(gain, torch.full_like(gain, 1 / factor)), (
                f"all read-outs times {factor} must give the gain {1 / factor:.4g}, got {float(gain.mean()):.4g}; "
                "declare the check in expected_failed_checks if it corrects less on purpose"
            )

    def test_dead_columns_do_no_harm(self) -> None:
        """Columns that read nothing, now or at programming."""
        y = self._read_outs(self.bench)
        dead = y.clone()
        dead[..., :2] = 0
        for reference, now in ((y, dead), (dead, y), (dead, dead)):
            gain = self.spec.gain(reference, now, self.bench.geometry)
            assert torch.isfinite(gain).all() and (gain >= 0).all(), (
                "a dead column gives a gain that is NaN, infinite or negative; see mho.effects.ratio"
            )

    def test_compensates_in_a_tile(self) -> None:
        """A day of fading costs less with it than without."""
        errors = []
        for part in (self.spec, None):
            tile = self.bench.tile(Fade.model_validate({}), tile={"compensation": part}).program(seed=0)
            start = tile.age(0.0)(self.bench.x)
            errors.append(float((tile.age(86_400.0)(self.bench.x) - start).norm() / start.norm()))
        assert errors[0] < 0.5 * errors[1], (
            f"after a day the outputs are wrong by {errors[0]:.3g} with it, {errors[1]:.3g} without"
        )

    def test_leaves_age_zero_alone(self) -> None:
        """Right after programming the gain is exactly 1, so nothing changes (R003-22)."""
        outputs = [self.bench.tile(tile={"compensation": part}).program(seed=0)(self.bench.x) for part in (self.spec, None)]
        assert torch.equal(*outputs), "at age 0 the outputs differ from those without compensation"
