"""Which way do the gradients point? Estimators of the gradient under hardware, beside the clean one and each other (R000).

Every draw is a chip of its own: programmed, aged, and read with noise of its own. A gradient is that of the weights on tiles.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mho.effects import straight
from mho.ground import MhoError, Table, Tabular
from mho.tile import Drawn, TileArray, tile_arrays
from mho.use import Time, keeping_chip, keeping_modes, matrices, program, session_of
from mho_lab.run.inspection import parameters_on_tiles, replaced

MODES = ("autograd", "through", "ste")
EXPECTED = "expected"  # the true derivative of everything but rounding, which passes straight through
ALL = "all"

Loss = Callable[[nn.Module], Tensor]


@contextmanager
def backward_by(net: nn.Module, mode: str) -> Iterator[None]:
    """Gradients of a network whose chip is on, in one mode: `autograd` (every operation's true derivative, programming and
    ageing included; rounding has derivative 0: R000's vanilla), `expected` (the same, but rounding passes straight through),
    `through` (R003-65) or `ste` (R001-02)."""
    name, rounding = ("autograd", "ste") if mode == EXPECTED else (mode, "zero")
    new = {"mode": name, "rounding": rounding, "surrogate": None}

    def changed(spec: Any) -> Any:
        return spec.model_copy(update={"backward": spec.backward.model_copy(update=new)})

    with replaced(tile_arrays(net), "training_spec", changed), ExitStack() as stack:
        if mode != "ste":
            for array, matrix in matrices(net):
                exactly = name == "autograd"
                target = array.view.carrier(array.normalised(matrix))
                weights = chip_weights(array, matrix) if exactly else straight(target, array.chip.weights)
                use = functools.partial(lambda w, array, args: (*args[:2], Drawn(w)), weights)  # instead of its own
                stack.callback(array.register_forward_pre_hook(use).remove)
        yield


def chip_weights(array: TileArray, weight: Tensor) -> Tensor:
    """The weights of the chip that is on as a function of the layer's, [tile, out, row], with the true derivative of
    everything that programming and ageing do (`chip.weights` are the same values). Random numbers are constants."""
    assert array.chip is not None
    w, sites, stream = array.normalised(weight), array.view.on_chip(array.chip.constants), array.chip.stream
    v, g = sites.written(w, lambda v: sites.programmed(v, stream))
    return sites.aged(g, v, array.chip.time, stream)


@dataclass(frozen=True)
class GradientDraws:
    """The clean gradient of every layer [weights], and draws [draw, weights] of every estimator."""

    clean: dict[str, Tensor]
    draws: dict[str, dict[str, Tensor]]


def sample_gradients(
    net: nn.Module,
    loss: Loss,
    *,
    modes: Sequence[str] = MODES,
    chips: int = 8,
    time: Time = 0.0,
    seed: int = 0,
    clean: Sequence[Tensor] | None = None,
) -> GradientDraws:
    """Gradients of `loss(net)` on chips 0 ... chips - 1 of a seed, all modes on the same chips. The clean one, of exact
    products, is measured too where it is not given."""
    parameters = parameters_on_tiles(net)

    def gradient() -> list[Tensor]:
        found = torch.autograd.grad(loss(net), list(parameters.values()), allow_unused=True)
        return [torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in zip(found, parameters.values())]

    draws: dict[str, list[list[Tensor]]] = {m: [] for m in modes}
    with keeping_chip(net), keeping_modes(net), torch.enable_grad():
        net.eval()
        if clean is None:
            with replaced(tile_arrays(net), "exact", lambda _: True):  # as on a digital machine
                clean = gradient()
        for k in range(chips):
            program(net, seed, index=k).age(time)
            for mode in modes:
                session_of(net).sample = 0  # every mode sees the same noise
                with backward_by(net, mode):
                    draws[mode].append(gradient())
    stacked = {m: {n: torch.stack(rows) for n, rows in zip(parameters, zip(*d))} for m, d in draws.items()}
    return GradientDraws(dict(zip(parameters, clean)), stacked)


class Direction(NamedTuple):
    """One estimator in one layer ("all": the whole network); sem is a standard error over draws (jackknife).

    cosine     between the estimator's expectation and the clean gradient (R000-01); norms are freed of Monte Carlo bias
    bias       |E g~ - g| / |g|
    variance   E|g~ - E g~|^2 / |E g~|^2 of a single draw (R000-02)
    expected   cosine between the estimator's expectation and the gradient of the expected perturbed loss
    lowest     the smallest cosine of a single draw with the clean gradient (R001-05)
    dead       the share of the weights with a clean gradient for which every draw gives 0 (R000-03)
    """

    layer: str
    mode: str
    cosine: float
    cosine_sem: float
    bias: float
    variance: float
    expected: float
    expected_sem: float
    lowest: float
    dead: float


class Directions(Tabular, tuple[Direction, ...]):
    """One entry for every layer and mode, the whole network first. Print it for a table."""

    def of(self, mode: str, layer: str = ALL) -> Direction:
        """The entry of a mode in a layer."""
        return next(d for d in self if (d.mode, d.layer) == (mode, layer))

    def as_table(self) -> Table:
        """What `print` and a notebook show."""
        head = ("layer", "mode", "cos(clean)", "±", "cos(expected)", "±", "bias", "variance", "lowest", "dead")
        rows = [(d.layer, d.mode, *(f"{v:.3g}" for v in (*d[2:4], *d[6:8], *d[4:6], *d[8:]))) for d in self]
        return Table(head, rows, right=range(2, len(head)))


def gradient_directions(
    net: nn.Module, loss: Loss, *, modes: Sequence[str] = MODES, chips: int = 8, time: Time = 0.0, seed: int = 0
) -> Directions:
    """How gradient estimators under hardware agree with the clean gradient and with that of the expected perturbed loss.

    `loss(net)` computes the loss of one batch, e.g. `lambda n: cross_entropy(n(x), y)`; `net` comes from `mho.to_analog`.
    Each of `chips` draws is a chip of its own, aged to `time`. The expected loss has the mean over draws of its true
    derivative as gradient, rounding taken straight-through; sample means are compared across different draws only, so that
    Monte Carlo noise biases neither side. The network is as before afterwards.
    """
    if chips < 2:
        raise MhoError(f"gradient directions need at least 2 chips, got {chips}")
    wanted = tuple(dict.fromkeys([*modes, EXPECTED]))
    return directions(sample_gradients(net, loss, modes=wanted, chips=chips, time=time, seed=seed), modes)


def directions(g: GradientDraws, modes: Sequence[str] = MODES) -> Directions:
    """The statistics of gradients that were sampled with the mode `expected` among them."""
    layers = [[n] for n in g.clean]
    groups = {ALL: list(g.clean), **{names[0]: names for names in layers}}
    return Directions(_direction(layer, mode, g, names) for layer, names in groups.items() for mode in modes)


class _Products(NamedTuple):
    """Inner products of draws: with the clean gradient [draw], with each other and with those of `expected` [draw, draw]."""

    clean: Tensor
    own: Tensor
    cross: Tensor
    expected: Tensor
    norm: float  # |g|^2

    def without(self, k: int) -> _Products:
        """The same with draw k left out."""
        kept = torch.arange(len(self.clean)) != k
        return _Products(self.clean[kept], *(m[kept][:, kept] for m in self[1:4]), self.norm)

    def with_clean(self) -> float:
        """The cosine of the mean gradient with the clean one."""
        return self._cosine(float(self.clean.mean()), self.norm)

    def with_expected(self) -> float:
        """The cosine of the mean gradient with that of the expected loss."""
        return self._cosine(off_diagonal(self.cross), off_diagonal(self.expected))

    def _cosine(self, product: float, other: float) -> float:
        """0 for a gradient that is always 0; nan where noise hides the direction; noise may push it past 1, so it is cut."""
        if not self.own.any():
            return 0.0
        own = off_diagonal(self.own)
        return max(-1.0, min(1.0, product / math.sqrt(own * other))) if own > 0 and other > 0 else math.nan


def _direction(layer: str, mode: str, g: GradientDraws, names: Sequence[str]) -> Direction:
    mine, true = ([g.draws[m][n].double() for n in names] for m in (mode, EXPECTED))
    clean = [g.clean[n].double() for n in names]
    p = _Products(
        sum((a @ c for a, c in zip(mine, clean)), torch.zeros(())),
        sum((a @ a.T for a in mine), torch.zeros(())),
        sum((a @ b.T for a, b in zip(mine, true)), torch.zeros(())),
        sum((b @ b.T for b in true), torch.zeros(())),
        float(sum(c @ c for c in clean)),
    )
    square = off_diagonal(p.own)
    spread = float(p.own.diagonal().mean()) - square
    apart = max(0.0, square - 2 * float(p.clean.mean()) + p.norm)
    each = p.clean / (p.own.diagonal() * p.norm).sqrt().clamp(min=1e-300)
    alive = sum(int((c != 0).sum()) for c in clean)
    dead = sum(int(((c != 0) & (a == 0).all(0)).sum()) for a, c in zip(mine, clean))
    return Direction(
        layer,
        mode,
        p.with_clean(),
        _jackknife(p, _Products.with_clean),
        math.sqrt(apart / p.norm) if p.norm else math.nan,
        spread / square if square > 0 else (0.0 if not spread else math.inf),
        p.with_expected(),
        _jackknife(p, _Products.with_expected),
        float(each.min()),
        dead / alive if alive else 0.0,
    )


def off_diagonal(gram: Tensor) -> float:
    """The mean product of different draws: an unbiased estimate of the product of the expectations."""
    n = len(gram)
    return float((gram.sum() - gram.diagonal().sum()) / (n * (n - 1)))


def _jackknife(p: _Products, statistic: Callable[[_Products], float]) -> float:
    """The standard error from leaving out one draw at a time."""
    n = len(p.clean)
    if n < 3:
        return math.nan
    values = [statistic(p.without(k)) for k in range(n)]
    mean = sum(values) / n
    return math.sqrt((n - 1) / n * sum((v - mean) ** 2 for v in values))


def loss_on_chip(net: nn.Module, loss: Loss, time: Time, seed: int, chip: int) -> float:
    """The perturbed loss of the weights as they are now, on one chip of theirs."""
    program(net, seed, index=chip).age(time)
    with torch.no_grad():
        return float(loss(net))


@contextmanager
def moved(net: nn.Module, parameters: Sequence[nn.Parameter], step: Sequence[Tensor]) -> Iterator[None]:
    """The parameters of a network with a step added, and as they were, to the bit, afterwards; mapped as before all the time."""

    def settle() -> None:
        for array, matrix in matrices(net):
            array.settle(matrix)

    before = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for p, s in zip(parameters, step):
                p.add_(s.view_as(p))
        settle()
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(parameters, before):
                p.copy_(old)
        settle()
