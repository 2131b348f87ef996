"""Checks of a part in tiles and networks: gradients, chips on disk, copies, vmap, compilation, other geometries."""

import copy
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mho.config import Hardware
from mho.tile import resolve
from mho.use import Tile, load_chip, program
from mho_kit.bench import Bench, seeded, skip, weights
from mho_kit.checks.base import Checks, EffectChecks, finite, same

ROUNDING: dict[str, dict[str, str]] = {"through": {}, "autograd": {"rounding": "ste"}}
GRADIENT = "declare backward = 'none' if the effect has no gradient by nature"


class TileChecks(Checks):
    # -- gradients --------------------------------------------------------------------------------------------
    def _gradients(self, mode: str, weight_factor: float = 1.0, x_factor: float = 1.0) -> dict[str, Tensor]:
        """The gradients of weights and inputs through the tile without rounding."""
        if getattr(self.spec, "backward", "") == "none":
            skip("the effect declares that it has no gradient")
        tile = self.made(tile={"dac": None}, backward={"mode": mode, **ROUNDING[mode]}).train()
        x = (self.bench.x * x_factor).requires_grad_()
        with torch.no_grad():
            tile.weight.mul_(weight_factor)
        with seeded():
            tile(x).square().sum().backward()
        return {n: torch.zeros_like(t) if t.grad is None else t.grad for n, t in (("weights", tile.weight), ("inputs", x))}

    def _gradient_reaches(self, what: str) -> None:
        for mode in ROUNDING:
            g = self._gradients(mode)[what]
            assert torch.isfinite(g).all(), f"backward {mode}: the gradient of the {what} is NaN or infinite; {GRADIENT}"
            assert g.abs().sum() > 0, f"backward {mode}: no gradient reaches the {what} (detach, no_grad, round?); {GRADIENT}"

    def test_gradient_reaches_the_weights(self) -> None:
        self._gradient_reaches("weights")

    def test_gradient_reaches_the_inputs(self) -> None:
        self._gradient_reaches("inputs")

    def test_gradients_are_finite_at_zero(self) -> None:
        """ReLU and pruning make whole vectors and columns of zeros."""
        for zero, factors in (("weights", (0.0, 1.0)), ("inputs", (1.0, 0.0))):
            for mode in ROUNDING:
                for what, g in self._gradients(mode, *factors).items():
                    assert torch.isfinite(g).all(), (
                        f"backward {mode}: the gradient of the {what} is NaN where all {zero} are 0; "
                        "clamp before sqrt, log and division (the derivative of sqrt is infinite at 0)"
                    )

    def test_trains(self) -> None:
        """A training step through every stage: noise injected as `program` would make it."""
        with seeded():
            y = self.made().train()(self.bench.x)
            y.sum().backward()
        finite(y, "training gives")

    # -- chips ------------------------------------------------------------------------------------------------
    def test_a_chip_survives_saving(self) -> None:
        chip, fresh = program(self.made(), seed=3), self.made()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "chip.safetensors"
            chip.save(file)
            loaded = load_chip(fresh, file)
        a, b = (c.age(3600.0).net(self.bench.x) for c in (chip, loaded))
        assert same(a, b), "a chip that was saved and loaded computes other outputs; keep constants as site.NAME, set in prepare"

    def test_a_deep_copy_of_a_tile_computes_the_same(self) -> None:
        tile = self.made().program(seed=0).age(60.0)
        other = copy.deepcopy(tile)
        assert same(tile(self.bench.x), other(self.bench.x)), "a deep copy of a programmed tile computes other outputs"

    def test_conductances_are_physical(self) -> None:
        tile = self.made().program(seed=0)
        g = tile.tiles.chip.programmed
        assert (g >= 0).all(), "programmed conductances are negative or NaN"
        assert not g[_padding(tile).expand_as(g)].any(), "there are devices in the padding"

    # -- torch's tools ----------------------------------------------------------------------------------------
    def test_works_under_vmap(self) -> None:
        tile = self.made().program(seed=0)
        batches = torch.stack([self.bench.x, self.bench.x.flip(0)])
        tile.age(60.0)
        mapped = torch.func.vmap(tile)(batches)
        for x, y in zip(batches, mapped):
            tile.age(60.0)
            assert torch.allclose(tile(x), y, rtol=1e-9, atol=1e-9), (
                "torch.vmap gives other outputs than a loop; no in-place writes, no branches on values"
            )

    def test_compiles_with_a_chip(self) -> None:
        tile = self.made().program(seed=0)
        self._compiles(tile, lambda: tile.age(60.0))  # ageing counts samples from 0 again

    def test_compiles_in_training(self) -> None:
        self._compiles(self.made().train(), lambda: None)

    def _compiles(self, tile: Tile, begin: Any) -> None:
        """The compiled tile computes what the plain one does, in one graph."""
        torch.compiler.reset()
        results = []
        for f in (tile, torch.compile(tile, fullgraph=True, backend="eager")):
            begin()
            try:
                with seeded():
                    results.append(f(self.bench.x).detach())
            except torch._dynamo.exc.TorchDynamoException as error:
                places = re.findall(r'File "([^"]+)", line (\d+)', str(error)) or [("?", "?")]
                cause = f"{str(error).strip().splitlines()[0]} ({places[-1][0]}:{places[-1][1]})"
                raise AssertionError(
                    f"torch.compile(fullgraph=True) stops: {cause}; "
                    "tensor code only: no .item(), .tolist(), numpy or `if` on values"
                ) from None
        plain, compiled = results
        worst = float((plain - compiled).abs().max())
        assert torch.allclose(plain, compiled, rtol=1e-6, atol=1e-6), (  # noise is drawn in fp32
            f"the compiled tile computes other outputs, by up to {worst:.1e}; look for Python values that change between "
            "calls, and for draws that do not come from the site"
        )

    # -- other geometries -------------------------------------------------------------------------------------
    def test_works_on_one_large_tile(self) -> None:
        finite(self.on_a_chip(rows=64, columns=64), "on a single tile outputs are")

    def test_works_on_tiles_of_one_row(self) -> None:
        finite(self.on_a_chip(rows=1, columns=1), "on tiles of one row and one column outputs are")

    def test_works_with_pairs_of_devices(self) -> None:
        """`pair: both` models the idle device too: g is [2, tile, out, row]."""
        g_max = self.bench.geometry.g_max
        finite(self.on_a_chip(device={"g_max": g_max, "g_min": 0.02 * g_max, "pair": "both"}), "with pair: both outputs are")

    def test_padding_computes_nothing(self) -> None:
        """Padded rows of the inputs are 0 and stay without weight."""
        tile = self.made().program(seed=0)
        w = weights(tile)
        assert not w[_padding(tile).expand_as(w)].any(), "cells in the padding have a weight"

    def test_works_in_a_converted_network(self) -> None:
        net = self.network().eval()
        program(net, seed=0)
        finite(net(self.bench.images()), "in a network with a convolution outputs are")

    def test_works_in_a_bfloat16_network(self) -> None:
        bench = Bench(self.tile, torch.bfloat16)
        y = self.made(bench).program(seed=0).age(60.0)(bench.x)
        assert y.dtype == torch.bfloat16, f"a bfloat16 layer returns {y.dtype}"
        finite(y, "in bfloat16 outputs are")

    def test_the_hardware_reads_back(self) -> None:
        """Results carry the hardware as YAML; reading it needs a kind that is installed or registered."""
        hardware = self.hardware()
        assert self.spec.kind in hardware.to_yaml(), "the kind is missing in the YAML of the hardware"
        assert isinstance(hardware, Hardware) and len(hardware.digest) == 64, "the hardware has no digest"


class EffectTileChecks(TileChecks, EffectChecks):
    """What is asked of effects besides."""

    def test_constants_of_a_chip_are_its_own(self) -> None:
        """What `prepare` sets is drawn from the chip."""
        first, again, other = (self.bench.site(self.spec, self.spec.stages()[-1], chip).constants for chip in (0, 0, 1))
        assert all(same(v, again[n]) for n, v in first.items()), "prepare gives one chip two sets of constants"
        assert first.keys() == other.keys(), "prepare sets other names on another chip"

    def test_state_dict_is_unaffected(self) -> None:
        names = [set(net.state_dict()) for net in (self.made().program(seed=0).age(60.0), self.bench.tile())]
        built = f"tiles.built.{resolve((self.spec,), '').effects[0].name}." if self.spec.writes("build") else "-"
        extra = ", ".join(sorted(name for name in names[0] ^ names[1] if not name.startswith(built)))
        assert not extra, f"it adds {extra} to state_dict(); an effect has no parameters or buffers but those of build(site)"


def _padding(tile: Tile) -> Tensor:
    """[tile, 1, row] where there is no device."""
    return tile.tiles.view.geometry.rows.used[:, None, :] == 0
