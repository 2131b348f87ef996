"""What a plugin may tell mho: the whole interface. Hooks run at most once, never in a forward pass.

A plugin is a module with functions of these names, marked with `@hookimpl`; its project names the module in the
entry-point group `mho`: `telegraph = "mho_telegraph"`. The entry point's name is the family of all its kinds.

A new hook is a specification here: a function without a body, with the `door` that says what it returns.
"""

# mypy: disable-error-code=empty-body
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import pluggy

from mho.config.schema import Kinded

Hook = TypeVar("Hook", bound=Callable[..., Any])

hookspec = pluggy.HookspecMarker("mho")
hookimpl = pluggy.HookimplMarker("mho")


class Door(NamedTuple):
    """What a hook returns: a list of classes with a kind, which YAML names; or else

    needs  a list of classes without one, each of which has this attribute ...
    what   ... and is this, for people
    names  a dict, name -> the thing itself or "module:attribute", imported when it is used; "family.name": every name begins
           with the family of the plugin, "name": any name will do

    Hooks of kinds are asked when a plugin is loaded, the others when somebody wants their category.
    """

    hook: str
    categories: tuple[str, ...]  # what the classes may be
    needs: str = ""
    what: str = ""
    names: str = ""

    @property
    def of_kinds(self) -> bool:
        return not (self.needs or self.names)


DOORS: list[Door] = []


def door(*categories: str, **more: str) -> Callable[[Hook], Hook]:
    """Marks the specification of a hook, and says what it returns."""

    def specified(hook: Hook) -> Hook:
        DOORS.append(Door(hook.__name__, categories, **more))
        return hookspec(hook)

    return specified


@door("nonideality")
def mho_nonidealities() -> Iterable[type[Kinded]]:
    """Device and circuit effects, for the `nonidealities:` of a tile.

    Example:

        import torch
        from mho import Field, Nonideality, hookimpl

        class TelegraphNoise(Nonideality, kind="telegraph.rtn"):
            "Traps that fill and empty at random lower a conductance while they are filled."
            source = "Ielmini, Nardi, Cagli 2010"
            strength = "depth"
            depth: float = Field(0.1, ge=0, lt=1, unit="1", description="conductance drop of a filled trap")

            def read(self, w, site):
                return torch.where(site.rand_like(w) < 0.05, w * (1 - self.depth), w)

        @hookimpl
        def mho_nonidealities():
            return [TelegraphNoise]
    """


@door("mapping")
def mho_mappings() -> Iterable[type[Kinded]]:
    """Ways to turn weights into target conductances, for the `mapping:` of a tile.

    Example:

        from mho import Field, Mapping, hookimpl

        class HalfRange(Mapping, kind="half.range"):
            "The largest weight of a column uses half of the conductance range."
            source = "an example"

            def scale(self, w, geometry):
                return 2 * w.abs().amax(-1)

        @hookimpl
        def mho_mappings():
            return [HalfRange]
    """


@door("dac", "adc")
def mho_converters() -> Iterable[type[Kinded]]:
    """Data converters, for the `dac:` and `adc:` of a tile.

    Example:

        from mho import Field, hookimpl
        from mho.effects import Adc

        class OffsetAdc(Adc, kind="offset.adc"):
            "An ADC whose result is shifted by a constant."
            source = "an example"
            offset: float = Field(0.1, unit="1", description="added to every result")

            def convert(self, y, rounding="through", site=None):
                return super().convert(y, rounding, site) + self.offset

        @hookimpl
        def mho_converters():
            return [OffsetAdc]
    """


@door("compensation")
def mho_compensations() -> Iterable[type[Kinded]]:
    """Ways to compensate drift digitally, for the `compensation:` of a tile.

    Example:

        from mho import hookimpl
        from mho.effects import Compensation

        class Halved(Compensation, kind="halved.drift"):
            "Corrects only half of the measured drift."
            source = "an example"

            def gain(self, reference, now, geometry):
                return (1 + reference.abs().sum(0) / now.abs().sum(0)) / 2

        @hookimpl
        def mho_compensations():
            return [Halved]
    """


@door("surrogate")
def mho_surrogates() -> Iterable[type[Kinded]]:
    """Differentiable stand-ins for a tile, for `training: {backward: {mode: surrogate, surrogate: KIND}}`.

    Example:

        from mho import Surrogate, hookimpl, product

        class HalfStep(Surrogate, kind="half.step"):
            "The gradient of half the exact product."
            source = "an example"

            def outputs(self, x, w, geometry):
                return product(x, w) / 2

        @hookimpl
        def mho_surrogates():
            return [HalfStep]
    """


@door("layer", needs="torch_type", what="subclasses of mho.AnalogLayer")
def mho_layers() -> Iterable[type]:
    """Analog layers, each a subclass of the torch layer that it replaces.

    Example:

        from mho import hookimpl
        from mho.layers import AnalogLinear

        class NamedLinear(AnalogLinear):
            "A linear layer that says so."

            def extra_repr(self):
                return "analog, " + super().extra_repr()

        @hookimpl
        def mho_layers():
            return [NamedLinear]
    """


@door("training")
def mho_training() -> Iterable[type[Kinded]]:
    """Training methods, for `training: {methods: [KIND, ...]}`; see `mho.TrainingMethod` for what they may do and when.

    A plugin that is installed may claim a key of `training:` for a kind, so that `shrink: {rate: 0.1}` does the same, in its
    pyproject.toml: `[project.entry-points."mho.training"]`, `shrink = "shrink.decay"`.

    Example:

        from mho import Field, TrainingMethod, hookimpl

        class Decay(TrainingMethod, kind="shrink.decay"):
            "Pulls all weights towards zero after every step of the optimizer."
            source = "an example"
            rate: float = Field(0.001, ge=0, le=1, unit="1", description="share of a weight that goes")

            def after_step(self, array, weight, step):
                weight.mul_(1 - self.rate)

        @hookimpl
        def mho_training():
            return [Decay]
    """


@door("quantiser")
def mho_quantisers() -> Iterable[type[Kinded]]:
    """Quantisers of weights and of layer inputs, for places such as `training: {quantise: {weights: KIND}}` of mho-qat, and
    for training methods that put them on tiles themselves (`array.weight_quantiser = spec.module("weights")`).

    Example:

        from mho import Field, Quantiser, hookimpl
        from mho.effects import straight

        class Powers(Quantiser, kind="powers.of_two"):
            "Rounds every value to a power of two, or to 0."
            source = "an example"
            lowest: int = Field(-6, unit="1", description="exponent of the smallest value that is not 0")

            def rounded(self, v):
                size = 2.0 ** v.abs().clamp(min=1e-30).log2().round()
                return straight(v, v.sign() * size * (size >= 2.0**self.lowest))

        @hookimpl
        def mho_quantisers():
            return [Powers]
    """


@door("correction")
def mho_corrections() -> Iterable[type[Kinded]]:
    """Digital corrections, for the `corrections:` of a tile.

    Example:

        import torch
        from mho import Correction, hookimpl
        from mho.effects import CorrectionModule

        class Shifted(Correction, kind="shifted.mean"):
            "Adds to every output what the tiles miss of it on average."
            source = "an example"

            def module(self, matrix):
                return Shift(self, matrix)

        class Shift(CorrectionModule):
            def __init__(self, spec, matrix):
                super().__init__(spec, matrix)
                self.register_buffer("shift", torch.zeros(matrix.outputs))

            def fit(self, x, w, y):
                self.shift.copy_((x @ w.T - y()).mean(0))

            def outputs(self, y, x, w):
                return y + self.shift

            @property
            def operations(self):
                return self.matrix.outputs

        @hookimpl
        def mho_corrections():
            return [Shifted]
    """


@door("calibration", names="name")
def mho_calibrations() -> Mapping[str, Any]:
    """Methods of `mho.calibrate` that look at the array and not only at statistics: argument.name -> function or
    "module:function". `dac.NAME` chooses input ranges (`calibrate(net, batches, "NAME")`), `columns.NAME` conductance ranges.

    It is called without gradients for every tile array, method(array, weight, x, before) -> the ranges that it chooses:

    array    the `TileArray`. Its input ranges are those of the largest |x| seen (and at most the cap) when `dac.` methods
             are called. The method may change ranges and program chips on it to compare candidates (`array.program`,
             `array.trace`): its result counts, and the chip that was on comes back
    weight   [out, in] of the layer, or [group, out, in]
    x        [vector, tile, row] some of the inputs of the DACs, in units of the layer, 0 where a tile has no row
    before   the ranges before, of the same shape as the result: input ranges [tile, 1] of `array.input_range`, or for
             `columns.` the weight that a full conductance stands for, [tile, out] of `array.gamma`

    `method.NAME` is about a whole network (`calibrate(net, batches, method="NAME", budget=0.02)`): method(net, inputs,
    budget) changes ranges and corrections, and returns what `calibrate` does; `inputs` are some of the inputs [vector, in]
    of every tile array that was reached.

    Example:

        import torch
        from mho import hookimpl

        def loudest(array, weight, x, before):
            "Input ranges that hold 99 of 100 inputs of a tile, but none that is smaller than before."
            return torch.maximum(x.abs().transpose(0, 1).flatten(1).quantile(0.99, dim=1, keepdim=True), before)

        @hookimpl
        def mho_calibrations():
            return {"dac.loudest": loudest}  # mho.calibrate(net, batches, "loudest")
    """


@door("task", names="family.name")
def mho_tasks() -> Mapping[str, Any]:
    """Tasks for `mho run` and the studies: family.name -> a subclass of `mho.Task`, or "module:Class", imported when used.
    `family.model` is a function of a text that makes one: `mho run family:TEXT HARDWARE`.

    Example:

        from mho import hookimpl

        @hookimpl
        def mho_tasks():
            return {"telegraph.morse": "mho_telegraph.tasks:Morse"}  # mho run telegraph.morse pcm.standard
    """


@door("page", names="name")
def mho_pages() -> Mapping[str, Any]:
    """Report pages for `mho report FOLDER`: a file or folder that a result folder holds -> function (or "module:function")
    that takes the folder and returns its page as HTML; `mho_lab.report` has the parts of pages.

    Example:

        from mho import hookimpl

        @hookimpl
        def mho_pages():
            return {"telegraph.json": "mho_telegraph.page:page_of"}
    """


@door("column", names="name")
def mho_columns() -> Mapping[str, Any]:
    """Columns of sweeps, beside the score: name -> function (or "module:function") of the task's name, the `Hardware` of a point
    and the text behind the colon in `--column NAME:TEXT`. It returns `value`, and where it can `low`, `high` and `unit`.

    Example:

        from mho import hookimpl

        def tiles(task, hw, text):
            return {"value": len(hw.tiles), "unit": "kinds"}

        @hookimpl
        def mho_columns():
            return {"tiles": tiles}  # mho sweep run digits pcm.standard --grid ... --pareto tiles
    """
