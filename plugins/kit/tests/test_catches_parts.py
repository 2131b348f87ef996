"""A deliberately bad mapping, converter, compensation, layer, training method, quantiser or correction for every check of
their kits."""

import copy
import random
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from mho_kit import (
    CompensationContract,
    ConverterContract,
    CorrectionContract,
    LayerContract,
    MappingContract,
    NonidealityContract,
    QuantiserContract,
    SurrogateContract,
    TrainingContract,
    contract_of,
)
from mho_kit.checks.description import DescriptionChecks
from mho_kit.checks.paths import PathChecks
from mho_kit.checks.tiles import TileChecks
from torch import nn

from mho import (
    Adc,
    AnalogLayer,
    Compensation,
    Correction,
    Dac,
    Field,
    Mapping,
    Quantiser,
    QuantiserModule,
    TrainingHooks,
    TrainingMethod,
)
from mho.config.schema import Kinded
from mho.effects import CorrectionModule
from mho.effects.compensation import GlobalDrift, ratio
from mho.effects.gradient import straight
from mho.effects.mapping import PerColumn
from mho.effects.surrogate import Surrogate

BAD = []  # (check, part, words of the message)


def caught(check, words):
    """Registers a class as the bad part of a check."""

    def put(cls):
        BAD.append((check, cls, words))
        return cls

    return put


# --- what all mappings, converters and compensations promise ---


@caught("inherits_from_its_base", "must inherit from mho.Mapping")
class NoMapping(Kinded, kind="bad.no_mapping"):
    """It says it is a mapping, and is none."""

    CATEGORY: ClassVar[str] = "mapping"


@caught("methods_take_the_right_arguments", "write gain(self, reference")
class WrongArguments(GlobalDrift, kind="bad.arguments"):
    """It forgets the geometry."""

    def gain(self, reference, now):
        return reference / now


@caught("keeps_the_dtype", "float32 into torch.float64")
class Double(Adc, kind="bad.double"):
    """It computes in double precision and stays there."""

    def convert(self, y, rounding="through", site=None):
        return super().convert(y, rounding, site).double()


@caught("keeps_the_device", "device")
class OnCpu(Adc, kind="bad.on_cpu"):
    """It adds a tensor that is on the CPU."""

    def convert(self, y, rounding="through", site=None):
        return super().convert(y, rounding, site) + torch.zeros(y.shape[-1], dtype=y.dtype)


@caught("never_waits_for_an_accelerator", "waits for the device at test_catches_parts.py")
class Looks(PerColumn, kind="bad.looks_at_it"):
    """It looks at a value."""

    def conductances(self, w, pair, geometry):
        return super().conductances(w, pair, geometry).clamp(min=float(w.abs().mean()) * 1e-9)


@caught("leaves_its_inputs_alone", "in place")
class InPlace(PerColumn, kind="bad.in_place"):
    """It takes absolute values in place."""

    def scale(self, w, geometry):
        return w.abs_().amax(-1)


@caught("is_finite", "NaN or infinity where everything is 0")
class NotFinite(Compensation, kind="bad.not_finite"):
    """It divides by what a dead column reads."""

    def gain(self, reference, now, geometry):
        return reference.abs().sum(0) / now.abs().sum(0)


class Counter(PerColumn, kind="bad.counter"):
    """It counts how often it is called, in its class."""

    calls: ClassVar[list[int]] = [0]

    def scale(self, w, geometry):
        self.calls[0] += 1
        return super().scale(w, geometry) * (1 + 0.01 * self.calls[0])


caught("gives_the_same_again", "two results")(Counter)
caught("keeps_no_state", "Counter.calls")(Counter)


class Generator(Adc, kind="bad.generator"):
    """Its noise comes from torch's generator."""

    def convert(self, y, rounding="through", site=None):
        return super().convert(y + 0.1 * torch.randn_like(y), rounding, site)


caught("ignores_global_generators", "global generator")(Generator)
caught("leaves_global_generators_alone", "torch's generator")(Generator)


@caught("a_copy_does_the_same", "deep copy")
class ById(PerColumn, kind="bad.by_id"):
    """It keeps its numbers under its own address."""

    def scale(self, w, geometry):
        return super().scale(w, geometry) * (1 + (id(self) % 9973) * 1e-4)

    def __deepcopy__(self, memo=None):
        return type(self).model_construct(**dict(self))


# --- mappings ---


@caught("scales_every_column_of_every_tile", "the core needs [tile, out]")
class OneScale(PerColumn, kind="bad.one_scale"):
    """One number for everything."""

    def scale(self, w, geometry):
        return w.abs().amax().reshape(1)


@caught("slices_add_up", "misses -1, 0 or 1 by 0.25")
class LosesHalf(PerColumn, kind="bad.loses_half"):
    """Two equal slices, of which the second counts half."""

    factors: ClassVar[tuple[float, ...]] = (0.5, 0.25)

    def split(self, w):
        return torch.stack([w, w], -2)


@caught("conductances_are_within_the_device_range", "devices have")
class OutOfRange(PerColumn, kind="bad.out_of_range"):
    """It forgets that the idle conductance is part of the range."""

    def conductances(self, w, pair, geometry):
        return super().conductances(w, pair, geometry) + geometry.g_min


@caught("weights_come_back", "must undo")
class Lossy(PerColumn, kind="bad.lossy"):
    """It writes three levels only."""

    def conductances(self, w, pair, geometry):
        return super().conductances((w * 2).round() / 2, pair, geometry)


@caught("weights_follow_the_conductances", "currents of devices add")
class NotLinear(PerColumn, kind="bad.not_linear"):
    """It reads weights with a threshold."""

    def weights(self, g, sign, pair, geometry):
        return super().weights(g, sign, pair, geometry).mul(2).round() / 2


@caught("clipping_never_widens_the_range", "leave `gamma` alone")
class WidensByClip(PerColumn, kind="bad.widens"):
    """With a clip it makes room for what it clips."""

    def gamma(self, w, geometry):
        return w.abs().amax(-1).clamp(min=1e-3) * (2 if self.clip else 1)


@caught("padding_does_not_count", "depends on the padding")
class CountsPadding(Mapping, kind="bad.counts_padding"):
    """Its scale is a mean over all rows, padding included."""

    def scale(self, w, geometry):
        return 5 * w.abs().mean(-1)


# --- converters ---


@caught("keeps_the_shape", "turns (")
class Flat(Adc, kind="bad.flat"):
    """It joins the tiles."""

    def convert(self, y, rounding="through", site=None):
        return super().convert(y, rounding, site).sum(-2)


@caught("saturates", "the range ends at 10")
class NoRails(Adc, kind="bad.no_rails"):
    """It rounds and never saturates."""

    def convert(self, y, rounding="through", site=None):
        step = self.bound / self.top
        return straight(y, (y / step).round() * step)


@caught("has_as_many_levels_as_its_bits", "8 bits")
class TooFine(Adc, kind="bad.too_fine"):
    """It has a bit more than it says."""

    def convert(self, y, rounding="through", site=None):
        return Adc(bits=self.bits + 2, bound=self.bound).convert(y, rounding)


@caught("values_keep_their_unit", "check units and sign")
class GivesCodes(Adc, kind="bad.gives_codes"):
    """It gives the share of the range instead of analog units."""

    def convert(self, y, rounding="through", site=None):
        return super().convert(y, rounding, site) / self.bound


@caught("larger_values_give_larger_codes", "order of the bits")
class Folds(Adc, kind="bad.folds"):
    """Near the end of its range it counts down again."""

    def convert(self, y, rounding="through", site=None):
        return super().convert(torch.where(y > 6, 12 - y, y), rounding, site)


@caught("all_roundings_give_the_same_values", "may change gradients only")
class OtherValues(Dac, kind="bad.other_values"):
    """Its exact mode does not round."""

    def encode_exactly(self, x, alpha, rounding, site=None):
        return (x / alpha).clamp(-1, 1)


@caught("gradient_passes_inside_the_range", "hardly any gradient")
class BareRound(Adc, kind="bad.bare_round"):
    """It rounds without saying what the gradient is."""

    def convert(self, y, rounding="through", site=None):
        step = self.bound / self.top
        return (y / step).round().clamp(-self.top, self.top) * step


@caught("gradient_stops_where_it_saturates", "mask it")
class LeakyGradient(Adc, kind="bad.leaky_gradient"):
    """Its gradient ignores the saturation."""

    def convert(self, y, rounding="through", site=None):
        return straight(y, super().convert(y, rounding, site))


@caught("a_chip_keeps_its_errors", "draw per='chip'")
class NewEveryCall(Adc, kind="bad.new_every_call"):
    """Its offsets are partly those of the call."""

    def convert(self, y, rounding="through", site=None):
        if site is None:
            return super().convert(y, rounding)
        offset = site.randn_like(y[0], per="chip") + site.randn_like(y[0], per="chip", name=str(site.stream.call))
        return super().convert(y + 0.1 * offset, rounding, site)


@caught("a_chip_keeps_its_errors", "use what you draw")
class UnusedDraw(Adc, kind="bad.unused_draw"):
    """It draws an offset for each chip and uses nothing of it."""

    def convert(self, y, rounding="through", site=None):
        if site is not None:
            site.randn_like(y[0], per="chip")
        return super().convert(y, rounding, site)


@caught("does_not_mix_vectors", "batches")
class BatchRange(Adc, kind="bad.batch_range"):
    """Its range is that of the batch."""

    def convert(self, y, rounding="through", site=None):
        full = y.detach().abs().amax().clamp(min=1e-6)
        return super().convert(y / full * self.bound, rounding, site) * full / self.bound


# --- declared converters ---


class GoodAdc(Adc, kind="bad.good_adc"):
    """Every output has a gain and an offset of its own on each chip."""

    source = "an example"
    spread: float = Field(0.02, ge=0, unit="1", description="standard deviation of gains, and of offsets in analog units")

    def prepare(self, site):
        like = torch.empty(len(site.rows.n), site.columns, device=site.rows.n.device)
        site.gain = 1 + self.spread * site.randn_like(like, per="chip", name="gain")
        site.offset = self.spread * site.randn_like(like, per="chip", name="offset")

    def transfer(self, y, site):
        return site.gain.to(y.dtype) * y + site.offset.to(y.dtype)


class GoodDac(Dac, kind="bad.good_dac"):
    """Unsigned, and bent by a share of the cube."""

    source = "an example"
    bend: float = Field(0.1, unit="1", description="cubic share")

    @property
    def lowest(self):
        return 0.0

    def transfer(self, v, site):
        return v - self.bend * v**3


@caught("lowest_is_where_inputs_are_clipped", "lowest is -2")
class LowerThanItsRange(Dac, kind="bad.lower"):
    """It says that it reaches further than its range."""

    @property
    def lowest(self):
        return -2.0


@caught("lowest_is_where_inputs_are_clipped", "values down to -1 come out; lowest is -0.5")
class ForgetsLowest(Dac, kind="bad.forgets_lowest"):
    """Its own encoding forgets where it ends."""

    @property
    def lowest(self):
        return -0.5

    def encode(self, x, alpha, decay, rows=None, site=None):
        return Dac(bits=self.bits).encode(x, alpha, decay, rows, site)


@caught("transfer_keeps_the_unit", "check units")
class TransferInCodes(GoodDac, kind="bad.transfer_in_codes"):
    """It puts codes out."""

    def transfer(self, v, site):
        return 127 * v


@caught("transfer_is_pointwise", "other values or vectors")
class MeanOfVectors(GoodAdc, kind="bad.mean_of_vectors"):
    """Its supply droops with the mean of the batch."""

    def transfer(self, y, site):
        return y - 0.1 * y.mean(0)


@caught("transfer_is_pointwise", "other values or vectors")
class Neighbours(GoodAdc, kind="bad.neighbours"):
    """Its outputs leak into their neighbours."""

    def transfer(self, y, site):
        return y + 0.01 * y.roll(1, -1)


@caught("transfer_draws_nothing", "draw constants of the chip in prepare")
class NoisyTransfer(GoodAdc, kind="bad.noisy_transfer"):
    """It draws where it should be a function."""

    def transfer(self, y, site):
        return y + 0.01 * site.randn_like(y[0], per="chip")


@caught("constants_belong_to_the_chip", "two sets of constants")
class ConstantsFromTorch(GoodAdc, kind="bad.constants_from_torch"):
    """Its offsets come from torch's generator."""

    def prepare(self, site):
        site.gain, site.offset = torch.ones(1), 0.01 * torch.randn(len(site.rows.n), site.columns)


@caught("a_declared_one_stays_on_the_fast_path", "converts in its own way")
class BothLanguages(GoodAdc, kind="bad.both_languages"):
    """It declares, and converts in its own way too."""

    def convert(self, y, rounding="through", site=None):
        return super().convert(y, rounding, site)


@caught("keeps_the_dtype", "transfer turns torch.float32 into torch.float64")
class DoubleTransfer(GoodAdc, kind="bad.double_transfer"):
    """Its transfer computes in double precision."""

    def transfer(self, y, site):
        return super().transfer(y.double(), site)


# --- compensations ---


@caught("gives_a_gain_for_every_column_of_every_tile", "the core needs [tile, out]")
class OneGain(Compensation, kind="bad.one_gain"):
    """One number for everything."""

    def gain(self, reference, now, geometry):
        return ratio(reference.abs().sum(), now.abs().sum())


@caught("the_gain_is_one_where_nothing_has_changed", "must give 1")
class AlwaysMore(GlobalDrift, kind="bad.always_more"):
    """It adds something to be sure."""

    def gain(self, reference, now, geometry):
        return 1.1 * super().gain(reference, now, geometry)


@caught("a_common_loss_is_undone", "must give the gain 2")
class SquareRoot(GlobalDrift, kind="bad.square_root"):
    """It corrects the root of the loss."""

    def gain(self, reference, now, geometry):
        return super().gain(reference, now, geometry).sqrt()


@caught("dead_columns_do_no_harm", "dead column")
class DividesByDead(Compensation, kind="bad.dead"):
    """A column that is dead now gives an infinite gain."""

    def gain(self, reference, now, geometry):
        return reference.abs().sum(0) / now.abs().sum(0)


@caught("compensates_in_a_tile", "after a day")
class Idle(Compensation, kind="bad.idle"):
    """It measures, and does nothing about it."""

    def gain(self, reference, now, geometry):
        return torch.ones_like(now[0])


# --- surrogates ---


@caught("keeps_the_shape", "the core needs (6, 3, 10)")
class SumsTiles(Surrogate, kind="bad.sums_tiles"):
    """It adds the tiles up."""

    def outputs(self, x, w, geometry):
        return super().outputs(x, w, geometry).sum(-2)


@caught("both_arguments_get_a_gradient", "no finite gradient reaches w")
class ForgetsWeights(Surrogate, kind="bad.forgets_weights"):
    """Its weights are detached."""

    def outputs(self, x, w, geometry):
        return super().outputs(x, w.detach(), geometry)


# --- layers ---


class Good(AnalogLayer, nn.Bilinear):
    """A bilinear layer on tiles, well made; to be made bad."""

    torch_type = nn.Bilinear

    def views(self):
        return {"": self.weight.flatten(1)}

    @classmethod
    def example(cls):
        return nn.Bilinear(5, 4, 3), (torch.rand(6, 5), torch.rand(6, 4))

    def forward(self, a, b):
        return self.tiles((a.unsqueeze(-1) * b.unsqueeze(-2)).flatten(-2), self.matrix) + self.bias


@caught("gives_an_example", "classmethod example()")
class NoExample(Good):
    """Nobody knows with what to try it."""

    @classmethod
    def example(cls):
        raise NotImplementedError


@caught("inherits_from_the_layer_it_replaces", "must inherit from Bilinear too")
class NotATorchLayer(AnalogLayer):
    """It replaces a layer that it is not."""

    torch_type = nn.Bilinear


@caught("documents_itself", "docstring")
class Silent(Good):
    pass


@caught("is_found_by_conversion", "takes and refuses")
class TakesNothing(Good):
    """It takes no layer at all, since it waits for another."""

    torch_type = nn.Linear

    @classmethod
    def takes(cls, layer):
        return False

    @classmethod
    def example(cls):
        return nn.Linear(5, 4), (torch.rand(6, 5),)


@caught("its_matrices_are_views_of_its_parameters", "is a copy")
class Copies(Good):
    """Its matrix is a copy, which clipping would change in vain."""

    def views(self):
        return {"": self.weight.flatten(1).clone()}


@caught("computes_what_the_torch_layer_computes", "differ from the torch layer's")
class ForgetsBias(Good):
    """It forgets the bias of the layer."""

    def forward(self, a, b):
        return super().forward(a, b) - self.bias


@caught("gradients_are_those_of_the_torch_layer", "gradient of layer.bias differs")
class DetachesBias(Good):
    """Its bias never learns."""

    def forward(self, a, b):
        return super().forward(a, b) - self.bias + self.bias.detach()


@caught("uses_its_tiles", "a chip changes nothing")
class RoundTheTiles(Good):
    """It computes with the weight itself."""

    def forward(self, a, b):
        return nn.functional.bilinear(a, b, self.weight, self.bias)


@caught("checkpoints_load_in_both_directions", "")
class StrictNames(Good):
    """It looks for its weight under another name."""

    def _load_from_state_dict(self, state, prefix, *args):
        state[prefix + "matrix"] = state.pop(prefix + "weight")
        super()._load_from_state_dict(state, prefix, *args)


@caught("becomes_the_torch_layer_again", "")
class NoWayBack(Good):
    """It stays analog whatever is asked."""

    def to_torch(self):
        return copy.deepcopy(self)


@caught("fused_values_are_those_of_the_reference_path", "branch on nothing")
class LooksAtThePath(Good):
    """It corrects its outputs on one of the paths."""

    def forward(self, a, b):
        return super().forward(a, b) * (1.01 if self.tiles.backend.route.fused else 1.0)


@caught("trains", "")
class OnlyInEval(Good):
    """It refuses to train."""

    def forward(self, a, b):
        assert not self.training, "this layer does not train"
        return super().forward(a, b)


# --- training methods ---


class GoodMethod(TrainingMethod, kind="bad.good_method"):
    """Pulls all weights a little towards zero."""

    source = "an example"
    share: float = Field(0.001, ge=0, le=1, unit="1", description="what goes in every step")

    def after_step(self, array, weight, step):
        weight.mul_(1 - self.share)


@caught("inherits_from_its_base", "must inherit from mho.TrainingMethod")
class NoMethod(Kinded, kind="bad.no_method"):
    """It says it is a training method, and is none."""

    CATEGORY: ClassVar[str] = "training"


@caught("methods_take_the_right_arguments", "write after_step(self, array, weight, step)")
class FewArguments(GoodMethod, kind="bad.few_arguments"):
    """It forgets the step."""

    def after_step(self, array, weight):
        weight.mul_(0.999)


@caught("starts_with_hooks", "inherits from mho.TrainingHooks")
class StartsWithSomething(GoodMethod, kind="bad.starts"):
    """It starts with what has no hooks."""

    def start(self, training):
        return SimpleNamespace(detach=lambda: None, before_forward=lambda step: None)


@caught("does_something", "in place")
class NotInPlace(GoodMethod, kind="bad.not_in_place"):
    """It makes a new weight, which nobody sees."""

    def after_step(self, array, weight, step):
        weight = weight * 0.999


@caught("keeps_weights_finite", "where all are 0")
class DividesByTheLargest(GoodMethod, kind="bad.divides"):
    """It divides by the largest weight."""

    def after_step(self, array, weight, step):
        weight.div_(weight.abs().max()).mul_(0.3)


@caught("the_loss_is_a_finite_number", "one finite number")
class LossOfEachSample(GoodMethod, kind="bad.loss_of_each"):
    """It gives the loss of every sample."""

    def loss(self, value, logits, teacher):
        return value + logits().square().mean(-1)


@caught("the_loss_is_a_finite_number", "without detach")
class LossWithoutGradient(GoodMethod, kind="bad.loss_without_gradient"):
    """It gives a number."""

    def loss(self, value, logits, teacher):
        return value.detach()


class RandomMethod(GoodMethod, kind="bad.random_method"):
    """Adds noise from torch's generator."""

    def after_step(self, array, weight, step):
        weight.add_(0.01 * torch.randn_like(weight))


caught("the_same_steps_give_the_same_weights", "mho.effects.draws")(RandomMethod)
caught("leaves_global_generators_alone", "torch's generator")(RandomMethod)


@caught("leaves_the_tiles_alone", "change the weight alone")
class ChangesGamma(GoodMethod, kind="bad.changes_gamma"):
    """It changes scales that the mapping sets."""

    def after_step(self, array, weight, step):
        array.gamma.mul_(1.01)


@caught("detach_leaves_nothing_behind", "remove in detach()")
class Stays(GoodMethod, kind="bad.stays"):
    """It puts a hook on the network and leaves it there."""

    def start(self, training):
        training.net.register_forward_hook(lambda net, inputs, outputs: 2 * outputs)
        return self


@caught("keeps_no_state", "what start(training) returns")
class CountsSteps(GoodMethod, kind="bad.counts_steps"):
    """It counts in its class."""

    calls: ClassVar[list[int]] = [0]

    def after_step(self, array, weight, step):
        self.calls[0] += 1
        weight.mul_(0.999)


@caught("goes_on_from_its_state", "state_dict() and load_state_dict(state)")
class Forgets(GoodMethod, kind="bad.forgets"):
    """Slow weights that nobody saves."""

    def start(self, training):
        class Slow(TrainingHooks):
            def after_step(self, array, weight, step):
                slow = vars(self).setdefault(array.name, weight.detach().clone())
                weight.copy_(slow.lerp_(weight, 0.5))

        return Slow()


# --- quantisers ---


class GoodQuantiser(Quantiser, kind="bad.good_quantiser"):
    """Rounds to multiples of a step."""

    source = "an example"
    step: float = Field(0.125, gt=0, unit="1", description="between two levels")

    def rounded(self, v):
        return straight(v, (v / self.step).round() * self.step)


def rounding(**changes):
    """A quantiser whose modules have these methods."""
    return type("Module", (QuantiserModule,), changes)


@caught("inherits_from_its_base", "must inherit from mho.Quantiser")
class NoQuantiser(Kinded, kind="bad.no_quantiser"):
    """It says it is a quantiser, and is none."""

    CATEGORY: ClassVar[str] = "quantiser"


@caught("methods_take_the_right_arguments", "write rounded(self, v)")
class RoundsNothing(GoodQuantiser, kind="bad.rounds_nothing"):
    """It forgets the values."""

    def rounded(self):
        return 0


@caught("makes_modules", "must be a mho.QuantiserModule")
class PlainModule(GoodQuantiser, kind="bad.plain_module"):
    """Its module is any module."""

    def module(self, what):
        return nn.Identity()


@caught("keeps_the_shape", "the core needs (64, 8)")
class FlatQuantiser(GoodQuantiser, kind="bad.flat_quantiser"):
    """It gives a list of values."""

    def rounded(self, v):
        return super().rounded(v).flatten()


@caught("keeps_the_dtype", "into torch.float32")
class SingleQuantiser(GoodQuantiser, kind="bad.single_quantiser"):
    """It computes in single precision and stays there."""

    def rounded(self, v):
        return super().rounded(v).float()


@caught("is_finite_where_everything_is_zero", "NaN or infinity")
class RelativeQuantiser(GoodQuantiser, kind="bad.relative"):
    """Its step is a share of the largest value."""

    def rounded(self, v):
        step = v.detach().abs().max() / 7
        return straight(v, (v / step).round() * step)


@caught("rounds", "nothing is rounded")
class NoRounding(GoodQuantiser, kind="bad.no_rounding"):
    """It lets everything pass."""

    def rounded(self, v):
        return 1 * v


@caught("levels_stay", "rounding twice")
class ShrinkingLevels(GoodQuantiser, kind="bad.shrinking"):
    """Its levels are no fixed points."""

    def rounded(self, v):
        return 0.8 * super().rounded(v)


@caught("leaves_its_inputs_alone", "in place")
class QuantisesInPlace(GoodQuantiser, kind="bad.quantises_in_place"):
    """It rounds where the values lie."""

    def rounded(self, v):
        with torch.no_grad():
            v.div_(self.step).round_().mul_(self.step)
        return v


@caught("gradient_reaches_the_values", "mho.effects.straight")
class RoundsBare(GoodQuantiser, kind="bad.rounds_bare"):
    """It rounds without saying what the gradient is."""

    def rounded(self, v):
        return (v / self.step).round() * self.step


@caught("lets_values_pass_when_it_is_off", "override quantised(v)")
class AlwaysOn(GoodQuantiser, kind="bad.always_on"):
    """It ignores the switch."""

    def module(self, what):
        return rounding(forward=lambda self, v: self.quantised(v))(self, what)


@caught("state_is_saved", "keep state in buffers")
class KeepsAnAttribute(GoodQuantiser, kind="bad.attribute"):
    """Its range is an attribute of the module."""

    def module(self, what):
        def start_from(self, mean, top, lowest):
            self.top = float(top)

        def quantised(self, v):
            return straight(v, (v / self.top * 7).round() * self.top / 7)

        return rounding(start_from=start_from, quantised=quantised, top=2.5)(self, what)


@caught("works_on_tiles", "")
class TwoAxes(GoodQuantiser, kind="bad.two_axes"):
    """It knows matrices only."""

    def rounded(self, v):
        rows, columns = v.shape
        return super().rounded(v).reshape(rows, columns)


# --- digital corrections ---


class GoodModule(CorrectionModule):
    """Channels are divided by their largest input and the weights multiplied; outputs get a gain by least squares."""

    def __init__(self, spec, matrix):
        super().__init__(spec, matrix)
        self.register_buffer("scale", torch.ones(matrix.channels))
        self.register_buffer("gain", torch.ones(matrix.outputs))

    def inputs(self, x):
        return x / self.scale

    def weights(self, w):
        scale = self.scale.repeat_interleave(self.matrix.cells)
        return w * (scale if w.dim() == 2 else scale.view(len(w), 1, -1))

    def outputs(self, y, x, w):
        return y * self.gain

    def fit(self, x, w, y):
        if w.dim() == 2:
            exact, is_ = x @ w.T, y()
            size = is_.square().sum(0)
            self.gain.copy_(torch.where(size > 0, (exact * is_).sum(0) / size, 1))
        top = x.abs().amax(0).view(-1, self.matrix.cells).amax(1)
        self.scale.copy_(torch.where(top > 0, top, 1))

    @property
    def operations(self):
        return self.matrix.outputs


class GoodCorrection(Correction, kind="bad.good_correction"):
    """Scales input channels, and outputs by a gain."""

    source = "an example"
    module_type: ClassVar[type] = GoodModule

    def module(self, matrix):
        return self.module_type(self, matrix)


def wrong_module(check, words, **changes):
    """A correction whose modules have these methods is caught by a check."""
    name = f"Wrong{len(BAD)}"
    module = type(name + "Module", (GoodModule,), changes)
    body = {"__doc__": "Its modules go wrong somewhere.", "__module__": __name__, "module_type": module}
    caught(check, words)(type(GoodCorrection)(name, (GoodCorrection,), body, kind=f"bad.{name.lower()}"))


@caught("inherits_from_its_base", "must inherit from mho.Correction")
class NoCorrection(Kinded, kind="bad.no_correction"):
    """It says it is a correction, and is none."""

    CATEGORY: ClassVar[str] = "correction"


@caught("methods_take_the_right_arguments", "write module(self, matrix)")
class ModuleOfNothing(GoodCorrection, kind="bad.module_of_nothing"):
    """It forgets the matrix."""

    def module(self):
        return 0


@caught("makes_modules", "must be a mho.effects.CorrectionModule")
class AnyModule(GoodCorrection, kind="bad.any_module"):
    """Its module is any module."""

    def module(self, matrix):
        return nn.Identity()


def offset(self, y, x, w):
    return y + 0.01


def lost(self, w):
    return w


def fixed_type(self, y, x, w):
    return (y * self.gain).float()


def in_place(self, x):
    return x.div_(self.scale)


def clips_weights(self, x, w, y):
    GoodModule.fit(self, x, w, y)
    w.clamp_(-0.1, 0.1)


def fit_without_clamp(self, x, w, y):
    self.scale.copy_(x.abs().amax(0).view(-1, self.matrix.cells).amax(1))


def fit_at_random(self, x, w, y):
    self.scale.copy_(1 + torch.rand(self.matrix.channels))


class Attribute(GoodModule):
    """Its scale is an attribute."""

    def __init__(self, spec, matrix):
        super().__init__(spec, matrix)
        del self.scale
        self.scale = torch.ones(matrix.channels)

    def fit(self, x, w, y):
        self.scale = x.abs().amax(0).view(-1, self.matrix.cells).amax(1).clamp(min=1e-6).to(w.dtype)


class Registered(GoodModule):
    """Its scale is found by the address of the module."""

    scales: ClassVar[dict] = {}

    def fit(self, x, w, y):
        self.scales[id(self)] = x.abs().amax(0).view(-1, self.matrix.cells).amax(1).clamp(min=1e-6)

    @property
    def found(self):
        return self.scales.get(id(self), torch.ones(self.matrix.channels))

    def inputs(self, x):
        return x / self.found.to(x)

    def weights(self, w):
        return w * self.found.to(w).repeat_interleave(self.matrix.cells)


wrong_module("a_new_module_changes_nothing", "before it is fitted", outputs=offset)
wrong_module("a_fitted_module_changes_nothing_on_ideal_tiles", "Linear: fitted on ideal tiles", weights=lost, fit=fit_at_random)
wrong_module("works_in_grouped_layers", "", weights=lambda self, w: w * self.scale.repeat_interleave(self.matrix.cells))
wrong_module("keeps_the_shape", "the core needs (12, 6)", outputs=lambda self, y, x, w: y.unsqueeze(0))
wrong_module("keeps_the_dtype", "into torch.float32", outputs=fixed_type)
wrong_module("leaves_its_arguments_alone", "inputs of Linear changes its arguments", inputs=in_place)
wrong_module("leaves_its_arguments_alone", "fit changes the weights", fit=clips_weights)
wrong_module("is_finite_where_everything_is_zero", "where all inputs are 0", fit=fit_without_clamp)
wrong_module("the_same_data_fit_the_same_tensors", "tensors scale", fit=fit_at_random)
wrong_module("operations_is_a_count", "whole number", operations=lambda self: 3)
wrong_module("operations_is_a_count", "is 1.5", operations=property(lambda self: self.matrix.outputs / 4))
wrong_module("gradients_reach_inputs_and_weights", "of 240 inputs", inputs=lambda self, x: (x / self.scale).detach())
wrong_module("gradients_reach_inputs_and_weights", "of 120 weights", weights=lambda s, w: GoodModule.weights(s, w.detach()))
wrong_module("repairs_nothing_on_an_ideal_chip", "repair changes outputs", repair=lambda s, read: (2 * s.gain, 0 * s.gain))
wrong_module("works_on_tiles", "NaN", outputs=lambda s, y, x, w: y / ((y - x() @ w.T).abs().amax() < 1e-3))


@caught("state_is_saved", "keep it in buffers")
class KeepsScale(GoodCorrection, kind="bad.keeps_scale"):
    """Its module keeps an attribute."""

    module_type: ClassVar[type] = Attribute


@caught("a_deep_copy_of_a_layer_does_the_same", "a deep copy computes other values")
class ById2(GoodCorrection, kind="bad.by_id2"):
    """Its modules keep their scales under their addresses."""

    module_type: ClassVar[type] = Registered


# What no part can get wrong by itself.
BEYOND = {
    "state_dict_is_unaffected": "guards the core: a part has no way to add state",
    "leaves_age_zero_alone": "guards the core, which leaves the gain of age 0 out",
}


@pytest.fixture(autouse=True)
def _fresh():
    Counter.calls[:] = [0]
    CountsSteps.calls[:] = [0]
    random.seed(0)
    yield


@pytest.mark.parametrize(("check", "cls", "words"), BAD, ids=[f"{cls.__name__}-{check}" for check, cls, _ in BAD])
def test_a_bad_part_is_caught(check, cls, words):
    part = cls.model_validate({}) if issubclass(cls, Kinded) else cls
    with pytest.raises(Exception) as caught_it:
        getattr(contract_of(part)(), f"test_{check}")()
    assert not isinstance(caught_it.value, pytest.skip.Exception)
    assert words in str(caught_it.value)


@pytest.mark.parametrize(
    "kit",
    [
        MappingContract,
        ConverterContract,
        CompensationContract,
        SurrogateContract,
        LayerContract,
        TrainingContract,
        QuantiserContract,
        CorrectionContract,
    ],
)
def test_every_check_of_a_kit_catches_something(kit):
    """Checks that all kits share are caught on effects, in test_catches.py."""
    shared = {*DescriptionChecks.names(), *TileChecks.names(), *PathChecks.names()} & {*NonidealityContract.names()}
    added = {n.removeprefix("test_") for n in kit.names() if n not in shared or not issubclass(kit, DescriptionChecks)}
    assert added <= {check for check, *_ in BAD} | BEYOND.keys()


def test_the_good_ones_pass():
    from mho_kit import run

    for part in (Good, GoodMethod(), GoodQuantiser(), GoodAdc(), GoodDac(), GoodCorrection()):
        assert [o for o in run(contract_of(part)) if o.state == "failed"] == []


class Unused(Mapping, kind="bad.unused"):
    """A mapping that says nothing."""

    share: float = Field(0.1, unit="1", description="an example")


def test_a_mapping_that_says_nothing_is_told_what_to_write():
    with pytest.raises(NotImplementedError, match="write scale"):
        contract_of(Unused())().test_is_finite()
