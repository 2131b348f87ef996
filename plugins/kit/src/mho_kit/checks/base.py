"""What all checks share: the part under test and its bench, failures that are declared, and how calls are compared."""

import copy
import functools
import inspect
import random
import sys
import unittest
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mho.config import Hardware
from mho.effects import Nonideality
from mho.use import Tile
from mho_kit.bench import OF_DEVICES, Bench, seeded

PREFIX = "test_"
Check = Callable[[Any], None]
Call = tuple[Callable[..., Tensor], tuple[Tensor, ...]]  # a method, and the tensors that it gets


class ExpectedFailure(unittest.SkipTest):
    """A check has failed, as the author declared."""


class Checks:
    """Base of the groups of checks. A check is a method `test_...(self)` that raises AssertionError.

    spec                     the part under test; it should do something visible
    tile                     YAML of a tile, where the part needs another than the bench's, e.g. "device: {g_max: 40 uS}"
                             [`example_tile` of the class of the part]
    expected_failed_checks   check -> why this part may fail it, here or in the class of the part, where `mho test` sees it too.
                             The check is then skipped with that reason, and fails once the part passes it
    """

    spec: ClassVar[Any]
    tile: ClassVar[str] = ""
    expected_failed_checks: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls) -> None:
        """Exchange the checks that are expected to fail by ones that expect it."""
        own = vars(cls)
        part = next((own[n] for n in ("spec", "layer", "column") if n in own), None)
        if cls.tile == "" and part is not None:
            cls.tile = getattr(part, "example_tile", "")
        expected = {**getattr(part, "expected_failed_checks", {}), **own.get("expected_failed_checks", {})}
        for name, reason in expected.items():
            method = PREFIX + name.removeprefix(PREFIX)
            check = getattr(cls, method, None)
            if check is None or not reason.strip():
                raise TypeError(f"expected_failed_checks: {name!r} is no check, or has no reason; checks: {cls.names()}")
            setattr(cls, method, _expected_to_fail(check, reason))

    @classmethod
    def names(cls) -> list[str]:
        """All checks, in the order in which they are written."""
        found = {n: None for c in reversed(cls.__mro__) for n in vars(c) if n.startswith(PREFIX)}
        return [n for n in found if callable(getattr(cls, n))]

    # -- where the part goes ------------------------------------------------------------------------------------
    def effects(self) -> tuple[Nonideality, ...]:
        """The effects of the bench's tiles."""
        return ()

    def about(self) -> dict[str, Any]:
        """Further arguments of the bench that put the part in its place: tile=..., or those of `training:`."""
        return {}

    def made(self, bench: Bench | None = None, tile: dict[str, Any] | None = None, **training: Any) -> Tile:
        """The bench's matrix on tiles with the part under test."""
        about = {**training, **self.about()}
        return (bench or self.bench).tile(*self.effects(), **{**about, "tile": {**(tile or {}), **about.get("tile", {})}})

    def network(self) -> nn.Module:
        """A converted network with the part under test."""
        return self.bench.network(*self.effects(), **self.about())

    def hardware(self) -> Hardware:
        """The bench's hardware with the part under test."""
        return self.bench.hardware(*self.effects(), **self.about())

    def calls(self, bench: Bench, device: str = "cpu") -> dict[str, Call]:
        """Method -> how the core calls it, always for the same chip."""
        raise NotImplementedError

    @functools.cached_property
    def bench(self) -> Bench:
        """Tiles in double precision, so that rounding hides nothing."""
        return Bench(self.tile)

    def values(self) -> dict[str, Any]:
        """The fields of the spec."""
        return {name: getattr(self.spec, name) for name in type(self.spec).model_fields}

    def on_a_chip(self, **tile: Any) -> Tensor:
        """Outputs of the bench's matrix on chip 0, a minute old."""
        return self.made(tile=tile).program(seed=0).age(60.0)(self.bench.x)


class EffectChecks(Checks):
    """Base of the groups that are about effects.

    ages   seconds at which ageing is looked at
    """

    spec: ClassVar[Nonideality]
    ages: ClassVar[tuple[float, ...]] = (0.0, 1.0, 3600.0, 86_400.0)

    def effects(self) -> tuple[Nonideality, ...]:
        return (self.spec,)

    def calls(self, bench: Bench, device: str = "cpu") -> dict[str, Call]:
        def called(stage: str) -> Callable[..., Tensor]:
            about = {} if stage in OF_DEVICES else {"target": bench.g.to(device)}
            return lambda *arguments: bench.call(self.spec, stage, arguments=arguments, **about)

        return {stage: (called(stage), bench.arguments(stage)) for stage in self.spec.stages()}

    def draws(self, per: str) -> list[str]:
        """The stages at which it draws numbers that change with every `per`."""
        return [stage for stage, asked in self.bench.asks(self.spec).items() if per in asked]


def _expected_to_fail(check: Check, reason: str) -> Check:
    @functools.wraps(check)
    def wrapped(self: Any) -> None:
        try:
            check(self)
        except unittest.SkipTest:
            raise
        except Exception as error:
            raise ExpectedFailure(f"expected to fail: {reason}") from error
        raise AssertionError(f"it passes now; remove {check.__name__!r} from expected_failed_checks")

    return wrapped


# -- comparisons ----------------------------------------------------------------------------------------------------
def same(a: Tensor, b: Tensor) -> bool:
    """Equal bit by bit, NaN included."""
    return a.shape == b.shape and bool(torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)))


def finite(values: Tensor, what: str) -> None:
    assert torch.isfinite(values).all(), f"{what} NaN or infinity"


def takes_the_arguments_of(base: type, cls: type, name: str, **keywords: Any) -> None:
    """Whether method `name` of a class can be called as that of its base: positional arguments, then these keywords."""
    wanted, given = (inspect.signature(getattr(c, name)) for c in (base, cls))
    positional = [p for p, v in wanted.parameters.items() if v.kind is not v.VAR_KEYWORD]
    try:
        given.bind(*positional, **keywords)
    except TypeError as error:
        text = ", ".join((*positional, *keywords))
        raise AssertionError(f"{name}{given} does not fit ({error}); write {name}({text})") from None


def documented(cls: type, what: str) -> None:
    """A docstring of its own, of a few words at least."""
    assert len((vars(cls).get("__doc__") or "").split()) >= 4, f"{cls.__name__} needs a docstring of its own: {what}"


def under_two_seeds(f: Callable[[], Any]) -> tuple[Any, Any]:
    """f() twice, with every global generator at another seed."""
    results = []
    for seed in (1, 2):
        with seeded(seed):
            random.seed(seed)
            np.random.seed(seed)
            results.append(f())
    return results[0], results[1]


def generators_moved(f: Callable[[], Any]) -> str:
    """The names of the global generators that f() draws from."""
    before = _generators()
    f()
    return ", ".join(name for name, state in _generators().items() if state != before[name])


def _generators() -> dict[str, Any]:
    state = np.random.get_state()
    return {
        "torch's generator": torch.get_rng_state().tolist(),
        "random": random.getstate(),
        "numpy.random": (state[1].tolist(), *state[2:]),  # type: ignore[index]
    }


def kept_by(spec: Any, f: Callable[[], Any]) -> str:
    """The names of everything in which f() leaves something behind: attributes, those of the class, globals of its module."""
    before = _state_of(spec)
    f()
    after = _state_of(spec)
    return ", ".join(sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n)))


def _state_of(spec: Any) -> dict[str, Any]:
    cls = type(spec)
    module = vars(sys.modules.get(cls.__module__, object))
    places = {"self": spec.__dict__, cls.__name__: vars(cls), cls.__module__: module}
    found = {f"{place}.{n}": _print(v) for place, values in places.items() for n, v in dict(values).items()}
    return {n: v for n, v in found.items() if not n.rpartition(".")[2].startswith(("__", "_abc"))}


def _print(value: Any) -> Any:
    """Something that changes when the value does."""
    if isinstance(value, torch.Tensor):
        return id(value), value._version
    if isinstance(value, np.ndarray):
        return id(value), value.tobytes()
    if isinstance(value, (dict, list, set, tuple, int, float, str, type(None))):
        return type(value), repr(value)[:10_000]
    attributes = vars(value) if hasattr(value, "__dict__") and not isinstance(value, type) else {}
    plain = {k: repr(v) for k, v in attributes.items() if isinstance(v, (int, float, str, list, dict, tuple))}
    return id(value), str(plain)[:10_000] if not callable(value) else ""


# -- checks of calls, which effects and other parts share -------------------------------------------------------------
class CallChecks(Checks):
    """Of methods that are functions of their arguments and of the chip."""

    HINT: ClassVar[str] = "tensors it makes must follow its arguments: torch.zeros_like(g), g.new_tensor(...)"
    ASK: ClassVar[str] = "draw with site.randn_like(v) or site.rand_like(v) only, never torch.rand or random"

    def keeps(self, dtype: torch.dtype, left_out: tuple[str, ...] = ()) -> None:
        for name, (call, arguments) in self.calls(Bench(self.tile, dtype)).items():
            if name in left_out:
                continue
            new = call(*arguments)
            assert new.dtype == dtype, f"{name} turns {dtype} into {new.dtype}; {self.HINT}"
            finite(new, f"in {dtype} {name} gives")

    def keeps_the_shape(self, **others: tuple[int, ...]) -> None:
        """Of the first argument, or what is said of a method by name."""
        for name, (call, arguments) in self.calls(self.bench).items():
            given, wanted = tuple(call(*arguments).shape), others.get(name, tuple(arguments[0].shape))
            assert given == wanted, f"{name} turns {tuple(arguments[0].shape)} into {given}, the core needs {wanted}"

    def leaves_arguments_alone(self) -> None:
        for name, (call, arguments) in self.calls(self.bench).items():
            before = [a.clone() for a in arguments]
            call(*arguments)
            assert all(map(same, arguments, before)), f"{name} changes its arguments in place; write x = x * a, not x *= a"

    def test_keeps_the_device(self) -> None:
        """Tried on torch's meta device, which every machine has."""
        for name, (call, arguments) in self.calls(self.bench, "meta").items():
            try:
                new = call(*(a.to("meta") for a in arguments))
            except (RuntimeError, NotImplementedError) as error:
                assert "device" not in str(error), f"{name} mixes devices ({error}); {self.HINT}"
                continue  # it looks at values, which this device has not
            assert new.device.type == "meta", f"{name} returns a tensor on {new.device}; {self.HINT}"

    def ignores_global_generators(self) -> None:
        for name, (call, arguments) in self.calls(self.bench).items():
            a, b = under_two_seeds(lambda call=call, arguments=arguments: call(*arguments))
            assert same(a, b), f"{name} ignores the chip's seed and uses a global generator; {self.ASK}"

    def test_leaves_global_generators_alone(self) -> None:
        for name, (call, arguments) in self.calls(self.bench).items():
            moved = generators_moved(lambda call=call, arguments=arguments: call(*arguments))
            assert not moved, f"{name} draws from {moved}; {self.ASK}"

    def test_keeps_no_state(self) -> None:
        """What belongs to a chip is set in `prepare(site)`; all else is asked for again."""

        def used() -> None:
            for call, arguments in self.calls(self.bench).values():
                call(*arguments)
            self.on_a_chip()

        if kept := kept_by(self.spec, used):
            raise AssertionError(f"it changes {kept}; a part keeps nothing (constants of a chip: site.NAME in prepare)")

    def test_a_copy_does_the_same(self) -> None:
        first = {name: call(*arguments) for name, (call, arguments) in self.calls(self.bench).items()}
        other = type(self)()
        other.spec = copy.deepcopy(self.spec)  # type: ignore[misc]
        for name, (call, arguments) in other.calls(self.bench).items():
            assert same(first[name], call(*arguments)), (
                f"{name} of a deep copy gives other values; keep nothing outside the fields, not even by id()"
            )


class ModuleChecks(CallChecks):
    """Of what is a part of a layer, like a quantiser or a correction: what it returns is like what it is given."""

    def test_keeps_the_shape(self) -> None:
        self.keeps_the_shape()

    def test_keeps_the_dtype(self) -> None:
        for dtype in (torch.float32, torch.float64):
            self.keeps(dtype)

    def trains(self, net: nn.Module, x: Tensor) -> None:
        """A backward pass in train mode gives finite gradients."""
        with seeded():
            net.train()(x).square().mean().backward()
        grads = [p.grad for p in net.parameters() if p.grad is not None]
        assert grads and all(torch.isfinite(g).all() for g in grads), "training with it gives no gradient, or NaN"
