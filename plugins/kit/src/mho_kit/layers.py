"""The contract of analog layers: the same function as the torch layer that they replace, with its weights on tiles."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from mho_fast import Precision
from torch import Tensor, nn

from mho.config import registry
from mho.layers import AnalogLayer
from mho.use import load_model, program, save_model, to_analog, to_digital
from mho_kit.bench import Bench, Witness, routes_of, seeded, skip
from mho_kit.checks.base import documented, same
from mho_kit.checks.devices import DeviceChecks
from mho_kit.checks.paths import EXACT
from mho_kit.far import Specimen, tensors_in


class LayerContract(DeviceChecks):
    """Everything an analog layer promises, as named checks for pytest. `layer` is the class; its `example()` gives the
    torch layer and the inputs with which it is tried.

    class TestAnalogBilinear(LayerContract):
        layer = AnalogBilinear
    """

    layer: ClassVar[type[AnalogLayer]]

    @contextmanager
    def _registered(self) -> Iterator[None]:
        """The layer is what conversion finds first."""
        fresh = registry.Registry()
        fresh.load(registry.CORE)
        fresh.register(self.layer)
        with registry.using(fresh), seeded():
            yield

    @contextmanager
    def _nets(self, *effects: Any) -> Iterator[tuple[Around, Around, tuple[Any, ...]]]:
        """A network of the torch layer, its analog version on the bench's tiles, and inputs; double precision, in eval."""
        with self._registered():
            digital, inputs = self._example(torch.float64)
            hardware = self.bench.hardware(*effects, tile={"dac": None, "adc": None, "mapping": "mho.tile_max"})
            yield digital, cast(Around, to_analog(digital, hardware)), inputs

    def _example(self, dtype: torch.dtype) -> tuple[Around, tuple[Any, ...]]:
        """A network of the torch layer in eval, and inputs."""
        try:
            layer, inputs = self.layer.example()
        except (NotImplementedError, ImportError) as why:
            skip(f"there is no example() to try it with ({type(why).__name__}: {why})")
        return Around(layer).to(dtype).eval(), tuple(
            i.to(dtype) if isinstance(i, Tensor) and i.is_floating_point() else i for i in inputs
        )

    def specimen(self) -> Specimen:
        with self._registered():
            digital, inputs = self._example(torch.float32)
            return to_analog(digital, Bench(self.tile, torch.float32).hardware()), inputs

    def test_gives_an_example(self) -> None:
        try:
            layer, inputs = self.layer.example()
        except ImportError as why:
            skip(f"its example needs what is not installed ({why})")
        except NotImplementedError:
            raise AssertionError("write a classmethod example() that returns a small torch layer and its inputs") from None
        assert isinstance(layer, self.layer.torch_type), f"example() must give a {self.layer.torch_type.__name__} first"
        assert isinstance(inputs, tuple), "example() must give a tuple of inputs second"

    def test_inherits_from_the_layer_it_replaces(self) -> None:
        cls = self.layer
        assert issubclass(cls, AnalogLayer), f"{cls.__name__} must inherit from mho.AnalogLayer first"
        assert issubclass(cls, cls.torch_type), f"{cls.__name__} must inherit from {cls.torch_type.__name__} too"

    def test_documents_itself(self) -> None:
        documented(self.layer, "what is on tiles, shapes")

    def test_is_found_by_conversion(self) -> None:
        with self._nets() as (_, analog, _):
            assert isinstance(analog.layer, self.layer), (
                f"conversion made a {type(analog.layer).__name__}; check torch_type, takes and refuses"
            )

    def test_its_matrices_are_views_of_its_parameters(self) -> None:
        """Clipping and remapping change them in place."""
        with self._nets() as (_, analog, _):
            memory = {p.untyped_storage().data_ptr() for p in analog.layer.parameters(recurse=False)}
            for name, view in analog.analog.views().items():
                assert view.untyped_storage().data_ptr() in memory, f"views()[{name!r}] is a copy; use view, flatten, T"
                assert view.dim() in (2, 3), f"views()[{name!r}] must be [out, in] or [group, out, in]"

    def test_computes_what_the_torch_layer_computes(self) -> None:
        with self._nets() as (digital, analog, inputs):
            assert _close(digital(*inputs), analog(*inputs)), "without any effect its outputs differ from the torch layer's"

    def test_gradients_are_those_of_the_torch_layer(self) -> None:
        with self._nets() as (digital, analog, inputs):
            grads = []
            for net in (digital, analog):
                torch.stack([v.square().sum() for v in tensors_in(net(*inputs))]).sum().backward()
                grads.append({n: p.grad for n, p in net.named_parameters() if p.grad is not None})
            missing = sorted(grads[0].keys() - grads[1].keys())
            assert not missing, f"no gradient reaches {', '.join(missing)}"
            wrong = [n for n, g in grads[0].items() if not torch.allclose(g, grads[1][n], atol=1e-9)]
            assert not wrong, f"without any effect the gradient of {', '.join(wrong)} differs from the torch layer's"

    def test_uses_its_tiles(self) -> None:
        """Effects of the tiles reach the outputs, and a chip is a seed."""
        with self._nets(Witness.model_validate({})) as (_, analog, inputs):
            results = [tensors_in(analog(*inputs))[0]]
            for seed in (1, 1, 2):
                program(analog, seed)
                results.append(tensors_in(analog(*inputs))[0])
            clean, first, again, other = results
            assert not same(clean, first), "a chip changes nothing; call self.tiles(x, self.matrix) in forward"
            assert same(first, again) and not same(first, other), "outputs do not follow the chip's seed"

    def test_checkpoints_load_in_both_directions(self) -> None:
        with self._nets() as (digital, analog, inputs), tempfile.TemporaryDirectory() as folder:
            analog.load_state_dict(digital.state_dict())
            file = Path(folder) / "net.safetensors"
            save_model(analog, file)
            other = copy.deepcopy(analog)
            with torch.no_grad():
                for p in other.parameters():
                    p.mul_(0.5)
            load_model(other, file)
            assert _close(analog(*inputs), other(*inputs)), "a checkpoint that is saved and loaded computes other outputs"
            assert _close(digital(*inputs), other(*inputs)), "a torch checkpoint computes other outputs on exact tiles"

    def test_becomes_the_torch_layer_again(self) -> None:
        with self._nets() as (digital, analog, inputs):
            back = cast(Around, to_digital(analog))
            assert type(back.layer) is type(digital.layer), f"to_digital gives a {type(back.layer).__name__}"
            assert _close(digital(*inputs), back(*inputs)), "to_digital gives a layer that computes something else"

    def test_fused_values_are_those_of_the_reference_path(self) -> None:
        """On an exact chip, in both arithmetics."""
        with self._registered():
            digital, inputs = self._example(torch.float32)
            for precision, error in EXACT.items():
                outputs = [self._on_a_chip(digital, inputs, p) for p in (precision, "reference")]
                for fused, reference in zip(*outputs):
                    worst = float((fused - reference).abs().max() / reference.abs().max())
                    assert worst <= 10 * error, (
                        f"precision {precision}: outputs differ from those of the reference path by {worst:.2g} of the "
                        "largest; compute with self.tiles(x, matrix) only, and branch on nothing that is its own"
                    )

    def _on_a_chip(self, digital: Around, inputs: tuple[Any, ...], precision: Precision) -> list[Tensor]:
        net = to_analog(digital, Bench(self.tile, torch.float32, precision).hardware(tile={"adc": None}))
        routes = routes_of(net)
        if precision != "reference" and not any(r.fused for r in routes):
            skip(f"it runs on the reference path: {routes[0].why}")
        program(net, seed=0)
        with torch.no_grad():
            return tensors_in(net(*inputs))

    def test_trains(self) -> None:
        with self._nets(Witness.model_validate({})) as (_, analog, inputs):
            torch.stack([v.square().sum() for v in tensors_in(analog.train()(*inputs))]).sum().backward()
            grads = [p.grad for p in analog.layer.parameters(recurse=False) if p.grad is not None]
            assert grads and all(torch.isfinite(g).all() for g in grads), "training gives no gradient, or NaN"


class Around(nn.Module):
    """A network of one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Any) -> Any:
        return self.layer(*inputs)

    @property
    def analog(self) -> AnalogLayer:
        return cast(AnalogLayer, self.layer)


def _close(a: Any, b: Any) -> bool:
    first, second = tensors_in(a), tensors_in(b)
    return len(first) == len(second) and all(torch.allclose(v, w, atol=1e-9) for v, w in zip(first, second))
