"""A deliberately bad effect for every check of the conformance kit: the check names the mistake and says what to change."""

import random
from typing import Any, ClassVar

import pytest
import torch
from mho_kit import NonidealityContract, contract_of
from pydantic import ConfigDict

import mho
from mho import Field, Nonideality, Side, linear, magnitude, signed

UNIT = {"unit": "1", "description": "an example"}


class Base(Nonideality):
    """An effect of an example, to be made bad."""

    source = "an example"


BAD = []  # (check, effect, its values, words of the message, what else the contract is told)


def caught(check, words, /, *, values=None, **about):
    """Registers a class as the bad effect of a check."""

    def put(cls):
        BAD.append((check, cls, values or {}, words, about))
        return cls

    return put


# --- what it says about itself ---


@caught("has_a_kind", "kind=")
class NoKind(Base):
    """It has no kind at all, so YAML cannot name it."""

    kind: str = "not a kind"

    def read(self, w, site):
        return w * 0.9


@caught("overrides_a_stage", "does nothing")
class NoStage(Base, kind="bad.no_stage"):
    """It overrides nothing at all."""


@caught("has_no_method_that_is_nearly_a_stage", "did you mean 'program'")
class Misspelt(Base, kind="bad.misspelt"):
    """It programs the British way."""

    def programe(self, g, site):
        return g * 0.9


@caught("stage_methods_take_the_right_arguments", "write age(self, g, t, site)")
class WrongArguments(Base, kind="bad.arguments"):
    """It forgets the time."""

    def age(self, g, site):
        return g


@caught("documents_itself", "docstring")
class NoDocstring(Base, kind="bad.no_docstring"):
    def read(self, w, site):
        return w * 0.9


@caught("names_its_source", "source =")
class NoSource(Nonideality, kind="bad.no_source"):
    """Nobody knows where this comes from."""

    def read(self, w, site):
        return w * 0.9


@caught("bibtex_is_well_formed", "braces")
class BadBibtex(Base, kind="bad.bibtex"):
    """Its entry is not closed."""

    bibtex = "@article{key, title = {Title}"

    def read(self, w, site):
        return w * 0.9


@caught("documents_every_field", "silent")
class SilentField(Base, kind="bad.silent_field"):
    """One field says nothing about itself."""

    silent: float = Field(0.1, unit="1")

    def read(self, w, site):
        return w * self.silent


@caught("every_number_has_a_unit", "bare")
class NoUnit(Base, kind="bad.no_unit"):
    """One number has no unit."""

    bare: float | None = Field(0.1, description="an example")

    def read(self, w, site):
        return w * 0.9


@caught("defaults_are_valid", "depth=2.0", values={"depth": 0.5})
class BadDefault(Base, kind="bad.default"):
    """Its default is outside its own bounds."""

    depth: float = Field(2.0, ge=0, le=1, **UNIT)

    def read(self, w, site):
        return w * self.depth


@caught("its_strength_is_a_number_field", "number")
class WordStrength(Base, kind="bad.strength"):
    """Its strength is a word."""

    strength = "law"
    law: str = Field("cubic", unit="1", description="which law")

    def read(self, w, site):
        return w * 0.9


@caught("round_trips_through_yaml", "another one")
class NoRoundTrip(Base, kind="bad.round_trip"):
    """Two equal descriptions are not equal."""

    def __eq__(self, other):
        return self is other

    __hash__ = Base.__hash__

    def read(self, w, site):
        return w * 0.9


class Opaque:
    """Something pydantic knows nothing about."""


@caught("has_a_json_schema", "JSON")
class NoSchema(Base, kind="bad.schema"):
    """One field holds something that YAML cannot."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    thing: Opaque | None = Field(None, description="an example")

    def read(self, w, site):
        return w * 0.9


@caught("is_frozen", "frozen")
class NotFrozen(Base, kind="bad.frozen"):
    """Its fields may be assigned."""

    model_config = ConfigDict(frozen=False)

    def read(self, w, site):
        return w * 0.9


@caught("refuses_unknown_keys", "extra")
class AllowsAll(Base, kind="bad.extra"):
    """It swallows misspelt keys."""

    model_config = ConfigDict(extra="allow")

    def read(self, w, site):
        return w * 0.9


@caught("is_hashable_and_equal_to_its_copy", "tuples instead of lists")
class NoHash(Base, kind="bad.hash"):
    """It holds a list."""

    levels: list[float] = Field([0.1], **UNIT)

    def read(self, w, site):
        return w * self.levels[0]


@caught("explains_itself_in_the_plan", "strength above 0", values={"scale": 0.0})
class TurnedOff(Base, kind="bad.off"):
    """It is tested at strength 0."""

    def read(self, w, site):
        return w * 0.9


# --- values ---


@caught("keeps_the_shape", "the core needs")
class Shape(Base, kind="bad.shape"):
    """It sums the rows away."""

    def read(self, w, site):
        return w.sum(-1)


class Double(Base, kind="bad.double"):
    """It computes in double precision and stays there."""

    def read(self, w, site):
        return (w.double() * 0.9).double()


class Single(Base, kind="bad.single"):
    """It computes in single precision and stays there."""

    def read(self, w, site):
        return w.float() * 0.9


caught("keeps_float32", "float64")(Double)
caught("keeps_float64", "float32")(Single)
caught("keeps_bfloat16", "float32")(Single)


@caught("keeps_the_device", "device")
class OnCpu(Base, kind="bad.device"):
    """It makes a tensor on the CPU."""

    def read(self, w, site):
        return w * torch.full(w.shape, 0.9, dtype=w.dtype)


@caught("never_waits_for_an_accelerator", "test_catches.py")
class Looks(Base, kind="bad.looks"):
    """It looks at a value on its way."""

    def read(self, w, site):
        return w * 0.5 if w.abs().max() > 1 else w * 0.9


@caught("never_waits_for_an_accelerator", "makes a shape of values")
class Counts(Base, kind="bad.counts"):
    """It writes through the places that it has found."""

    def program(self, g, site):
        found = (g > 1.0).nonzero()
        return g * (1 + 0.01 * len(found))


@caught("never_waits_for_an_accelerator", "copies from the host")
class Copies(Base, kind="bad.copies"):
    """It makes a table of numbers at every call."""

    def output(self, y, site):
        table = torch.tensor([0.0, 0.9], dtype=y.dtype).to(y.device)
        return y * table[1]


@caught("accepts_extra_leading_axes", "from the end")
class AxesFromTheFront(Base, kind="bad.axes"):
    """It counts axes from the front."""

    def output(self, y, site):
        return y.sum(1, keepdim=True).expand(y.shape) if y.dim() == 3 else y.flatten(1)


@caught("leaves_its_inputs_alone", "in place")
class InPlace(Base, kind="bad.in_place"):
    """It overwrites what it is given."""

    def program(self, g, site):
        return g.mul_(0.9)


@caught("is_finite", "t = 1 s")
class NotFinite(Base, kind="bad.finite"):
    """It divides by zero after one second."""

    def age(self, g, t, site):
        return g / g.new_tensor(t - 1.0)


@caught("is_finite_at_the_edges", "everything is 0")
class NotFiniteAtZero(Base, kind="bad.finite_at_zero"):
    """It takes the logarithm of a conductance."""

    own_scale = True

    def program(self, g, site):
        return g * (g / g).clamp(max=2) * torch.log(g / site.g_max).abs()


@caught("returns_a_new_value", "changes nothing")
class Idle(Base, kind="bad.idle"):
    """It does nothing, in many words."""

    def read(self, w, site):
        return w + 0.0


@caught("stays_in_its_units", "check the units")
class Siemens(Base, kind="bad.units"):
    """It takes nanosiemens for microsiemens."""

    def program(self, g, site):
        return g * 1e3


@caught("a_copy_does_the_same", "deep copy")
class ById(Base, kind="bad.by_id"):
    """It keeps its numbers under its own address."""

    def read(self, w, site):
        return w * (1 + (id(self) % 9973) * 1e-4)


@caught("cells_are_alone_where_it_says_so", "other cells")
class NotCellwise(Base, kind="bad.cellwise"):
    """It says that cells are alone, and divides by their mean."""

    cellwise = True

    def program(self, g, site):
        return g * g.mean() / site.g_max


# --- random numbers and state ---


class GlobalGenerator(Base, kind="bad.generator"):
    """It draws from torch's own generator."""

    def program(self, g, site):
        return g + torch.randn_like(g)

    def age(self, g, t, site):
        return g * (1 + 0.01 * torch.randn_like(g))


caught("the_same_seed_is_the_same_chip", "site.randn_like")(GlobalGenerator)
caught("ignores_torchs_generator", "ignores the chip's seed")(GlobalGenerator)
caught("the_same_age_again_is_the_same", "twice")(GlobalGenerator)


@caught("leaves_global_generators_alone", "random")
class PythonGenerator(Base, kind="bad.python_generator"):
    """It draws from Python's generator."""

    def program(self, g, site):
        return g * (1 + 0.1 * random.random())


@caught("another_seed_is_another_chip", "two chips are the same")
class UnusedDraw(Base, kind="bad.unused_draw"):
    """It draws for each chip and uses nothing of it."""

    def program(self, g, site):
        return g * 0.9 + 0 * site.randn_like(g)


caught("another_layer_has_other_draws", "two layers")(UnusedDraw)


@caught("draws_differ_between_cells", "one number")
class OneDraw(Base, kind="bad.one_draw"):
    """All cells share one random number."""

    def program(self, g, site):
        return g * (1 + 0.1 * site.randn_like(g).flatten()[0])


class Route(Base, kind="bad.route"):
    """Every age adds to the ages before."""

    passed: ClassVar[list[float]] = []

    def age(self, g, t, site):
        self.passed.append(t)
        return g * (1 + sum(self.passed)) ** -0.05


caught("ageing_has_no_memory_of_the_route", "the ages asked for before")(Route)


@caught("ageing_is_defined_from_the_start", "start at 0 s")
class NoStart(Base, kind="bad.start"):
    """Its clock starts at one second."""

    def age(self, g, t, site):
        return g * (1.0 / t) ** 0.05


@caught("draws_do_not_depend_on_how_a_batch_is_cut", "batches")
class BatchMean(Base, kind="bad.batch"):
    """It subtracts the mean of the batch."""

    def output(self, y, site):
        return y - y.mean(0, keepdim=True)


@caught("every_vector_has_its_own_draw", "two vectors the same noise")
class SharedNoise(Base, kind="bad.shared_noise"):
    """All vectors get the noise of the first one."""

    def output(self, y, site):
        return y + 0.1 * site.randn_like(y)[:1]


class Counter(Base, kind="bad.counter"):
    """It counts how often it is called, in its class."""

    calls: ClassVar[list[int]] = [0]

    def read(self, w, site):
        self.calls[0] += 1
        return w * (1 + 0.01 * self.calls[0])


caught("call_order_does_not_matter", "what was called before")(Counter)
caught("keeps_no_state", "Counter.calls")(Counter)

# --- tiles ---


@caught("gradient_reaches_the_weights", "no gradient reaches the weights")
class Detached(Base, kind="bad.detached"):
    """It forgets the graph."""

    def read(self, w, site):
        return w.detach() * 0.9


@caught("gradient_reaches_the_inputs", "no gradient reaches the inputs")
class Rounded(Base, kind="bad.rounded"):
    """It rounds the inputs."""

    def input(self, x, site):
        return (x * 3).round() / 3


@caught("gradients_are_finite_at_zero", "derivative of sqrt")
class Root(Base, kind="bad.root"):
    """It takes a bare square root of the outputs."""

    backward = "exact"

    def output(self, y, site):
        return y + 0.1 * y.square().sqrt()


@caught("trains", "NaN")
class NanInTraining(Base, kind="bad.nan"):
    """It divides zero by zero."""

    def output(self, y, site):
        return y + (y - y) / (y - y)


@caught("a_chip_survives_saving", "saved and loaded")
class KeepsConstants(Base, kind="bad.constants"):
    """How it ages depends on how often anything has aged before."""

    made: ClassVar[list[int]] = []

    def age(self, g, t, site):
        self.made.append(1)
        return g / (1 + 0.1 * len(self.made))


@caught("constants_of_a_chip_are_its_own", "two sets of constants")
class TwoSets(Base, kind="bad.two_sets"):
    """What it prepares is drawn from torch's generator."""

    def prepare(self, site):
        site.offset = torch.randn(1)

    def output(self, y, site):
        return y + 0.01 * site.offset


@caught("a_deep_copy_of_a_tile_computes_the_same", "deep copy")
class CopyCounts(Base, kind="bad.copy"):
    """It knows which object it is."""

    def read(self, w, site):
        return w * (1 + (id(self) % 9973) * 1e-4)

    def __deepcopy__(self, memo=None):
        return type(self).model_construct(**dict(self))


@caught("conductances_are_physical", "negative or NaN")
class NanCells(Base, kind="bad.nan_cells"):
    """Some cells are not a number."""

    def program(self, g, site):
        return torch.where(g > 5, g * float("nan"), g)


@caught("works_under_vmap", "")
class Branches(Base, kind="bad.branches"):
    """It looks at values to decide what to do."""

    def output(self, y, site):
        return y * 0.9 if y.abs().max().item() > 0 else y


caught("compiles_with_a_chip", "fullgraph")(Branches)
caught("compiles_in_training", "fullgraph")(Branches)


class Picky(Base, kind="bad.picky"):
    """It knows one geometry only, and gives NaN on any other."""

    def _wrong(self, site):
        shape = tuple(site.rows.depth.shape)
        return float("nan") if shape != (3, 6) or site.columns != 10 or site.g_min > 0 else 0.9

    def output(self, y, site):
        return y * self._wrong(site)


caught("works_on_one_large_tile", "single tile")(Picky)
caught("works_on_tiles_of_one_row", "one row")(Picky)
caught("works_with_pairs_of_devices", "pair: both")(Picky)
caught("works_in_a_converted_network", "convolution")(Picky)


@caught("works_in_a_bfloat16_network", "")
class NoBfloat16(Base, kind="bad.bfloat16"):
    """It calls numpy, which has no bfloat16."""

    def program(self, g, site):
        assert g.dtype != torch.float32, "numpy has no bfloat16"
        return g * 0.9


# --- strength ---


@caught("strength_zero_removes_it", "strength 0")
class ActsAtZero(Base, kind="bad.zero"):
    """It is active at strength 0 too."""

    own_scale = True

    @property
    def active(self):
        return True

    def read(self, w, site):
        return w * 0.9


@caught("strength_goes_to_nothing_smoothly", "0 must mean no effect")
class JumpsAtZero(Base, kind="bad.jump"):
    """It rounds whatever its strength is."""

    own_scale = True

    def program(self, g, site):
        return (g / 5).round() * 5 * (1 + 0.1 * self.scale)


@caught("more_strength_is_more_effect", "should grow")
class Shrinks(Base, kind="bad.shrinks"):
    """The stronger, the less it does."""

    strength = "quality"
    quality: float = Field(1.0, ge=0, **UNIT)

    def read(self, w, site):
        return w * (1 - 0.1 / self.quality)


@caught("strength_changes_something", "half the strength")
class IgnoresStrength(Base, kind="bad.ignores_strength"):
    """Its strength is in no formula."""

    own_scale = True

    def read(self, w, site):
        return w * 0.9


# --- declared terms ---


@caught("sides_are_used", "no term over them")
class UnusedSides(Base, kind="bad.unused_sides"):
    """It names sides and forgets the term."""

    sides: ClassVar[dict[str, Any]] = {"s": Side(lambda w, site: w, linear)}


@caught("sides_keep_the_shape", "shaped like w")
class SideShape(Base, kind="bad.side_shape"):
    """A side sums its rows away."""

    sides: ClassVar[dict[str, Any]] = {"s": Side(lambda w, site: w.sum(-1), linear)}

    def shift(self, site, s):
        return s


@caught("sides_are_bounded", "move the factor")
class SideBound(Base, kind="bad.side_bound"):
    """A side is larger than the inputs."""

    sides: ClassVar[dict[str, Any]] = {"s": Side(signed, lambda x: 3 * x)}

    def shift(self, site, s):
        return s


@caught("terms_fit_the_outputs", "does not fit")
class TermShape(Base, kind="bad.term_shape"):
    """Its variance has an axis too many."""

    def variance(self, site):
        return torch.ones(1, 4, 1, 1, 1)


@caught("variance_is_not_negative", "clamp it")
class NegativeVariance(Base, kind="bad.variance"):
    """Its variance has a sign."""

    sides: ClassVar[dict[str, Any]] = {"s": Side(lambda w, site: w, linear)}

    def variance(self, site, s):
        return s


@caught("transfer_is_pointwise", "other outputs")
class NotPointwise(Base, kind="bad.pointwise"):
    """Its transfer divides by the largest output."""

    def transfer(self, y, site):
        return y / y.abs().amax(-1, keepdim=True)


@caught("plain_method_agrees_with_the_declaration", "disagree")
class Disagrees(Base, kind="bad.disagrees"):
    """It declares one noise and adds another."""

    def variance(self, site):
        return 0.04**2

    def output(self, y, site):
        return y + 0.05 * site.randn_like(y)


@caught("backward_is_known", "choose one of")
class Backward(Base, kind="bad.backward"):
    """Its gradient is a word nobody knows."""

    backward = "maybe"

    def variance(self, site):
        return 0.1


# --- the fused path ---


def small(x):
    """x / 1000: nothing is left of it in 1/127 of the range of x."""
    return x / 1000


@caught("fused_values_are_those_of_the_reference_path", "fills [-1, 1]")
class LostSide(Base, kind="bad.lost_side"):
    """Its side uses so little of the range that integers lose it; the factor belongs into the term."""

    sides: ClassVar[dict[str, Any]] = {"s": Side(signed, small)}

    def shift(self, site, s):
        return 300 * s


@caught("fused_values_are_those_of_the_reference_path", "precision fp32")
class LooksAtTheBlock(Base, kind="bad.looks_at_the_block"):
    """It does something else where it is shown the vectors in blocks."""

    def transfer(self, y, site):
        return y if site.part is not None else 0.999 * y


@caught("fused_noise_has_the_moments_of_the_reference_path", "variance is")
class LostNoise(Base, kind="bad.lost_noise"):
    """The same for a variance: the integers say that there is no noise."""

    sides: ClassVar[dict[str, Any]] = {"s": Side(magnitude, lambda x: x.square() / 1000)}

    def variance(self, site, s):
        return 10 * s


@caught("fused_noise_has_the_moments_of_the_reference_path", "mean is")
class BiasedNoise(Base, kind="bad.biased_noise"):
    """Noise whose mean is not where the reference path has it: a shift that looks at autograd."""

    def variance(self, site):
        return 0.02**2

    def shift(self, site):
        return 0.01 if site.part is not None else 0.0


@caught("fused_gradients_are_those_of_the_reference_path", "gradient of the output scales")
class LooksAtAutograd(Base, kind="bad.looks_at_autograd"):
    """It does less while gradients are recorded, which the fused path does by itself."""

    def transfer(self, y, site):
        return y * (0.9 if y.requires_grad else 0.8)


# --- statistics ---


class Noisy(Base, kind="bad.noisy"):
    """Gaussian programming noise of 1 uS."""

    def program(self, g, site):
        return g + site.randn_like(g)


caught("expected_moments_name_its_stages", "expected names", expected={"age": lambda g, t, site: (g, 1.0)})(Noisy)
caught("mean_and_spread_are_as_expected", "std is", expected={"program": lambda g, site: (g, 1.2)})(Noisy)

# --- what is learned ---


class Learns(Base):
    """A gain for every column, learned and well made; to be made bad."""

    def build(self, site):
        return torch.nn.ParameterDict({"gain": torch.ones(site.columns)})

    def output(self, y, site):
        return y * site.module["gain"]


@caught("builds_a_module", "must return a torch.nn.Module")
class BuildsATensor(Learns, kind="bad.builds_a_tensor"):
    """It builds a bare parameter."""

    def build(self, site):
        return torch.nn.Parameter(torch.ones(site.columns))


class FirstValues(Learns, kind="bad.first_values"):
    """First values come from torch's generator."""

    def build(self, site):
        return torch.nn.ParameterDict({"gain": torch.rand(site.columns)})


caught("builds_the_same_again", "other values each time")(FirstValues)
caught("leaves_the_generator_alone_when_it_builds", "shifts everybody else's numbers")(FirstValues)


@caught("parameters_have_axes", "at least 1-D")
class Scalar(Learns, kind="bad.scalar"):
    """One gain for all, without an axis."""

    def build(self, site):
        return torch.nn.ParameterDict({"gain": torch.tensor(1.0)})


@caught("every_parameter_learns", "no gradient reaches")
class LearnsTooEarly(Learns, kind="bad.learns_too_early"):
    """It scales conductances when they are programmed, where no gradient flows."""

    def program(self, g, site):
        return g * site.module["gain"][:, None]

    def output(self, y, site):
        return y * 0.9


@caught("what_is_learned_changes_the_outputs", "use site.module")
class ForgetsWhatItLearns(Learns, kind="bad.forgets"):
    """It builds a module and uses none of it."""

    def output(self, y, site):
        return y * 0.9


class Hidden(torch.nn.ParameterDict):
    """Its parameters are there, but not in its state."""

    def state_dict(self, *args, **kwargs):
        return {}

    def _save_to_state_dict(self, *args):
        pass

    def _load_from_state_dict(self, *args):
        pass


@caught("what_is_learned_is_saved_and_copied", "saved or copied")
class NotSaved(Learns, kind="bad.not_saved"):
    """What it learns is missing in checkpoints."""

    def build(self, site):
        return Hidden({"gain": torch.ones(site.columns)})


@caught("a_torch_checkpoint_still_loads", "")
class DemandingEffect(Learns, kind="bad.demanding"):
    """It wants something that no torch checkpoint has."""

    def build(self, site):
        class Demanding(torch.nn.ParameterDict):
            def _load_from_state_dict(self, state, prefix, *args):
                raise KeyError(prefix + "key")

        return Demanding({"gain": torch.ones(site.columns)})


# What no effect can get wrong by itself.
BEYOND_EFFECTS = {
    "inherits_from_its_base": "a class that is no effect has no stages to look at",
    "methods_take_the_right_arguments": "of effects it is stage_methods_take_the_right_arguments",
    "state_dict_is_unaffected": "guards the core: an effect has no way to add state",
    "neighbours_keep_their_draws": "guards the core: paths are made of kind and occurrence",
    "replaces_the_product_alone": "guards the plan",
    "the_hardware_reads_back": "guards the core",
    "padding_computes_nothing": "guards the core, which empties the padding after every stage",
}


INTEGERS = "mho: 1\ndefault: t\ntiles: {t: {dac: {bits: 8}}}"


@pytest.fixture(autouse=True)
def _fresh():
    for cls in (Route, Counter, KeepsConstants):
        values = next(v for n, v in vars(cls).items() if n in ("passed", "calls", "made"))
        values[:] = [0] if cls is Counter else []
    yield


@pytest.mark.parametrize(("check", "cls", "values", "words", "about"), BAD, ids=[f"{b[0]}-{b[1].__name__}" for b in BAD])
def test_a_bad_effect_is_caught(check, cls, values, words, about):
    if cls in (LostSide, LostNoise) and mho.routes(mho.Hardware.from_yaml(INTEGERS))["t"].tier != "int8":
        pytest.skip("nothing is lost where this processor has no fast integer products")
    contract = contract_of(cls.model_validate(values), **about)
    with pytest.raises(Exception) as caught_it:
        getattr(contract(), f"test_{check}")()
    assert not isinstance(caught_it.value, pytest.skip.Exception)
    assert words in str(caught_it.value)


def test_every_check_catches_something():
    checks = {n.removeprefix("test_") for n in NonidealityContract.names()}
    assert checks == {*(check for check, *_ in BAD), *BEYOND_EFFECTS}
