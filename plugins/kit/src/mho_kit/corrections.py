"""The contract of digital corrections: nothing where tiles are ideal; tensors that are fitted, saved and copied."""

import copy
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mho import Correction
from mho.effects import CorrectionModule, Matrix
from mho.tile import tile_arrays
from mho.use import calibrate, program, to_analog
from mho_kit.bench import Bench, Witness, seeded
from mho_kit.checks.base import Call, ModuleChecks, finite, same, under_two_seeds
from mho_kit.checks.description import DescriptionChecks
from mho_kit.checks.devices import DeviceChecks
from mho_kit.far import Specimen

IDEAL: dict[str, Any] = {"dac": None, "adc": None}  # converters of ideal tiles
CLOSE = 1e-3  # of the largest output or gradient: what is fitted from data of single precision
OUTLIER = 50.0  # the second channel is that much larger than the others
LAYERS = ("Linear", "Conv2d")
SAMPLES, WIDTH = 12, 6  # of inputs; of images


class CorrectionContract(DeviceChecks, ModuleChecks, DescriptionChecks):
    """Everything a digital correction promises to the tiles, as named checks for pytest.

        class TestSmooth(CorrectionContract):
            spec = Smooth(alpha=0.5)

    The author declares `spec`, and `expected_failed_checks`. Checked are what it says about itself, and its modules in a
    linear layer and a convolution, fitted to inputs one channel of which is 50 times larger than the others: they change
    nothing before they are fitted, and on ideal tiles nothing afterwards (outputs to 1e-3 of the largest, gradients nowhere
    0); shapes, types and arguments stay; the same data fit the same tensors, which are saved, loaded and copied; `operations`
    is a count; a network with it is programmed and trained on tiles that are not ideal.
    """

    BASE = Correction
    METHODS = ("module",)
    spec: ClassVar[Correction]
    HINT = "buffers and parameters follow the layer, all else must follow x: torch.zeros_like(x), x.new_tensor(...)"
    ASK = "a correction draws nothing"

    # -- where the part goes ------------------------------------------------------------------------------------
    def _layer(self, kind: str, dtype: torch.dtype = torch.float64) -> nn.Module:
        with seeded():
            made = {
                "Linear": lambda: nn.Linear(20, 6),
                "Conv2d": lambda: nn.Conv2d(4, 6, 3, padding=1),
                "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2),
            }
            return made[kind]().to(dtype).eval()

    def _inputs(self, kind: str, dtype: torch.dtype = torch.float64) -> Tensor:
        x = self.bench.random(SAMPLES, *((20,) if kind == "Linear" else (4, WIDTH, WIDTH)), number=13).to(dtype)
        x[:, 1] *= OUTLIER
        return x

    def _analog(self, layer: nn.Module, *effects: Any, **tile: Any) -> Any:
        """The layer on tiles with the correction; ideal ones unless `tile` says otherwise."""
        with seeded():
            hardware = self.bench.hardware(*effects, tile={**IDEAL, **tile, "corrections": (self.spec,)}, inject=None)
            return to_analog(layer, hardware).eval()

    def _fitted(self, kind: str, dtype: torch.dtype = torch.float64) -> Any:
        net = self._analog(self._layer(kind, dtype))
        calibrate(net, [self._inputs(kind, dtype)])
        return net

    def _module(self, net: nn.Module) -> CorrectionModule:
        made: CorrectionModule = tile_arrays(net)[0].corrections[0]
        return made

    def _methods(self, module: CorrectionModule, kind: str, bench: Bench) -> Iterator[tuple[str, Call]]:
        """What the core calls of a module."""
        about, cells = module.matrix, module.matrix.cells
        x = bench.random(SAMPLES, about.channels, number=13)
        w = bench.random(about.outputs, about.inputs, number=14)
        rows = x.repeat_interleave(cells, 1)
        y = rows @ w.T
        yield f"inputs of {kind}", (module.inputs, (x,))
        yield f"weights of {kind}", (module.weights, (w,))
        yield f"outputs of {kind}", (lambda y, rows, w: module.outputs(y, lambda: rows, w), (y, rows, w))

    def calls(self, bench: Bench, device: str = "cpu") -> dict[str, Call]:
        found: dict[str, Call] = {}
        for kind in LAYERS:
            found.update(self._methods(self._module(self._fitted(kind, bench.dtype)).to(device), kind, bench))
        return found

    def on_a_chip(self, **tile: object) -> Tensor:
        net = self._on_tiles()
        program(net, seed=0)
        outputs: Tensor = net(self._inputs("Conv2d"))
        return outputs

    def _on_tiles(self) -> Any:
        """A convolution on tiles with converters and noise, calibrated."""
        net = self._analog(self._layer("Conv2d"), Witness.model_validate({}), dac={"bits": 8}, adc={"bits": 8, "bound": 10.0})
        with seeded():
            calibrate(net, [self._inputs("Conv2d")])
        return net

    def specimen(self) -> Specimen:
        return self._analog(self._layer("Conv2d", torch.float32)), (self._inputs("Conv2d", torch.float32),)

    # -- checks -----------------------------------------------------------------------------------------------
    def test_makes_modules(self) -> None:
        for matrix in (Matrix(6, 20, 1, 1), Matrix(6, 36, 1, 9), Matrix(6, 36, 2, 9)):
            made = self.spec.module(matrix)
            assert isinstance(made, CorrectionModule), (
                f"module({matrix}) gives {made!r}; it must be a mho.effects.CorrectionModule"
            )
            assert made is not self.spec.module(matrix), "two matrices get one module; make a new one on every call"

    def test_a_new_module_changes_nothing(self) -> None:
        for kind in LAYERS:
            layer, x = self._layer(kind), self._inputs(kind)
            error = _error(self._analog(layer)(x), layer(x))
            assert error < 1e-9, (
                f"{kind}: before it is fitted, outputs differ from the torch layer's by {error:.2g} of the largest; start "
                "with ones, zeros or no channel"
            )

    def test_a_fitted_module_changes_nothing_on_ideal_tiles(self) -> None:
        """Where there is nothing to repair: whatever `inputs` does to x, `weights` or `outputs` undoes."""
        for kind in LAYERS:
            self._is_the_torch_layer(kind)

    def test_repairs_nothing_on_an_ideal_chip(self) -> None:
        """What is found for a chip whose outputs are exact changes nothing; the same chip is repaired in the same way."""
        for kind in LAYERS:
            net, x = self._fitted(kind), self._inputs(kind)
            first, again = under_two_seeds(lambda net=net: (program(net, seed=0), tile_arrays(net)[0].chip.repair)[1])
            error = _error(net(x), self._layer(kind)(x))
            assert error < CLOSE, f"{kind}: on an ideal chip, repair changes outputs by {error:.2g} of the largest"
            assert first is None or all(map(same, first[1], again[1])), f"{kind}: repair of a chip varies; draw nothing"

    def test_works_in_grouped_layers(self) -> None:
        """Weights are [group, out, in] there, and channels those of all groups."""
        self._is_the_torch_layer("grouped")

    def _is_the_torch_layer(self, kind: str) -> None:
        error = _error(self._fitted(kind)(self._inputs(kind)), self._layer(kind)(self._inputs(kind)))
        assert error < CLOSE, (
            f"{kind}: fitted on ideal tiles, outputs differ from the torch layer's by {error:.2g} of the largest; undo in "
            "weights or outputs what inputs does (a channel has matrix.cells columns of w)"
        )

    def test_leaves_its_arguments_alone(self) -> None:
        self.leaves_arguments_alone()
        for kind in LAYERS:
            net, layer = self._fitted(kind), self._layer(kind)
            assert same(net.weight, layer.weight), f"{kind}: fit changes the weights of the layer; keep tensors of its own"

    def test_is_finite_where_everything_is_zero(self) -> None:
        """Dead channels and pruned layers: inputs that calibration sees, and weights."""
        for kind in LAYERS:
            for zero in ("inputs", "weights"):
                layer, x = self._layer(kind), self._inputs(kind)
                for p in layer.parameters() if zero == "weights" else ():
                    nn.init.zeros_(p)
                net = self._analog(layer)
                with seeded():
                    calibrate(net, [0 * x if zero == "inputs" else x])
                finite(net(x), f"{kind}: fitted where all {zero} are 0, it gives")

    def test_the_same_data_fit_the_same_tensors(self) -> None:
        for kind in LAYERS:
            a, b = under_two_seeds(lambda kind=kind: self._module(self._fitted(kind)).state_dict())
            moved = [name for name in a if not same(a[name], b[name])]
            assert not moved, f"{kind}: the same data fit other tensors {', '.join(moved)}; draw nothing in fit and module"

    def test_state_is_saved(self) -> None:
        for kind in LAYERS:
            net = self._fitted(kind)
            fresh = self._analog(self._layer(kind))
            fresh.load_state_dict(net.state_dict())
            self._computes_the_same(net, fresh, kind, "loaded into a new network it computes other values; keep it in buffers")

    def test_a_deep_copy_of_a_layer_does_the_same(self) -> None:
        for kind in LAYERS:
            net = self._fitted(kind)
            self._computes_the_same(net, copy.deepcopy(net), kind, "a deep copy computes other values; keep it in buffers")

    def _computes_the_same(self, net: nn.Module, other: nn.Module, kind: str, words: str) -> None:
        pairs = (self._methods(self._module(n), kind, self.bench) for n in (net, other))
        for (name, (call, arguments)), (_, (again, _)) in zip(*pairs):
            assert same(call(*arguments), again(*arguments)), f"{name}: {words}"

    def test_operations_is_a_count(self) -> None:
        alone = self.spec.module(Matrix(6, 20, 1, 1))  # conversion adds up those of a network
        for module in (lambda: alone, *(lambda kind=kind: self._module(self._fitted(kind)) for kind in LAYERS)):
            count = module().operations
            assert isinstance(count, int) and not isinstance(count, bool) and count >= 0, (
                f"operations is {count!r}; it must be a whole number of multiply-adds for every vector, a property"
            )

    def test_gradients_reach_inputs_and_weights(self) -> None:
        """Wherever the torch layer has one."""
        for kind in LAYERS:
            grads = []
            for net in (self._fitted(kind).train(), self._layer(kind)):
                x = self._inputs(kind).requires_grad_()
                with seeded():
                    net(x).square().sum().backward()
                grads.append({"inputs": x.grad, "weights": net.weight.grad})
            for what, wanted in grads[1].items():
                found = torch.zeros_like(wanted) if grads[0][what] is None else grads[0][what]
                assert torch.isfinite(found).all(), f"{kind}: the gradient of the {what} is NaN or infinite"
                missed = int(((found == 0) & (wanted != 0)).sum())
                assert not missed, f"{kind}: no gradient reaches {missed} of {found.numel()} {what} (detach, no_grad, round?)"

    def test_works_on_tiles(self) -> None:
        """With converters and noise: calibrated, trained and programmed."""
        net, x = self._on_tiles(), self._inputs("Conv2d")
        self.trains(net, x)
        finite(self.on_a_chip(), "on a chip outputs are")


def _error(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value; inf where there is NaN."""
    error = float((found - wanted).detach().abs().max() / wanted.detach().abs().max())
    return float("inf") if math.isnan(error) else error
