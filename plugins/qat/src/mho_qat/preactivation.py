"""Gaussian noise on the pre-activations of chosen layers, analog or digital: for noisy training and for robustness studies.

A pre-activation is what a layer with a weight matrix hands to the nonlinearity, its bias included. Layers of several
matrices on tiles (recurrent ones, attention) get the noise on every product instead.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mho.config import suggest
from mho.effects import draws
from mho.ground import MhoError
from mho.layers import AnalogLayer
from mho.tile import batch_size

Mode = Literal["additive", "multiplicative", "mixed"]

Rows = tuple[Tensor, Tensor]  # numbers of the samples, and of the positions in each

# mode -> (additive, multiplicative) share of sigma
MODES: dict[str, tuple[float, float]] = {"additive": (1.0, 0.0), "multiplicative": (0.0, 1.0), "mixed": (1.0, 1.0)}
CLOSED = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)  # torch computes their products where no hook reaches


class PreactivationNoise:
    """y' = y (1 + s_m xi') + s_a xi, with fresh standard normal xi, xi' for every element of every sample (R002-01).

    sigma    additive: s_a = sigma; multiplicative: s_m = sigma; mixed: both, or a pair (s_a, s_m). Absolute: in units of
             the pre-activation. May be changed while attached; for ramps of noisy training change `share`, a factor on it all.
    layers   "all", a name or shell pattern, or several of them; the other layers stay exact to the bit
    alpha, theta   each sample and layer draws its standard deviation from N(alpha sigma, theta^2), negative draws cut at 0
             (R002-04)
    seed     None: draws come from torch's generator, fresh at every call (training). A number: they are a function of
             (seed, layer, sample, use in this forward), whatever the batches; samples are counted from `attach` on.
    training_only   layers in evaluation mode stay exact to the bit, copies of the network too

        with PreactivationNoise(0.1, layers="fc*").on(net):
            y = net(x)

    The gradient is the true one: additive noise passes it on unchanged.
    """

    def __init__(
        self,
        sigma: float | tuple[float, float],
        mode: Mode = "additive",
        layers: str | Sequence[str] = "all",
        *,
        alpha: float = 1.0,
        theta: float = 0.0,
        seed: int | None = None,
        training_only: bool = False,
    ) -> None:
        if mode not in MODES:
            raise MhoError(f"no noise mode {mode!r}; {suggest(mode, MODES, 'modes')}")
        pair = sigma if isinstance(sigma, tuple) else (sigma, sigma)
        if min(pair) < 0 or theta < 0:
            raise MhoError(f"sigma and theta must be at least 0, got sigma={sigma}, theta={theta}")
        if isinstance(sigma, tuple) and mode != "mixed":
            raise MhoError(f"a pair of sigmas belongs to mode 'mixed', not {mode!r}")
        self.sigma, self.mode, self.layers = sigma, mode, layers
        self.alpha, self.theta, self.seed = alpha, theta, seed
        self.training_only = training_only
        self.share = 1.0  # of all noise, for ramps; at 0 outputs are untouched
        self.names: tuple[str, ...] = ()  # of the layers that are noisy, once attached
        self._handles: list[RemovableHandle] = []
        self._batch: int | None = None
        self._sample = 0
        self._uses: Counter[str] = Counter()

    # -- on and off -------------------------------------------------------------------------------------------
    def attach(self, net: nn.Module) -> Self:
        """Make the chosen layers of `net` noisy until `detach`."""
        if self._handles:
            raise MhoError("this noise is attached already; detach() it first, or make another one")
        chosen = self._chosen(noisy_modules(net))
        self.names, self._sample, self._batch = tuple(chosen), 0, None
        self._handles = [
            net.register_forward_pre_hook(self._begin, with_kwargs=True),
            *(m.register_forward_hook(self._noisy(name)) for name, m in chosen.items()),
            net.register_forward_hook(self._end, always_call=True),  # last: the root may be a noisy layer itself
        ]
        return self

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @contextmanager
    def on(self, net: nn.Module) -> Iterator[nn.Module]:
        """Noisy inside the `with` block."""
        self.attach(net)
        try:
            yield net
        finally:
            self.detach()

    def _chosen(self, found: dict[str, nn.Module]) -> dict[str, nn.Module]:
        patterns = ["*"] if self.layers == "all" else [self.layers] if isinstance(self.layers, str) else self.layers
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in found):
                raise MhoError(f"no layer is called {pattern!r}; {suggest(pattern, found, 'there are')}")
        return {n: m for n, m in found.items() if any(fnmatch.fnmatchcase(n, p) for p in patterns)}

    # -- a forward --------------------------------------------------------------------------------------------
    def _begin(self, net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._batch = batch_size([*args, *kwargs.values()])
        self._uses.clear()

    def _end(self, net: nn.Module, args: Any, output: Any) -> None:
        self._sample += self._batch or 0
        self._batch = None

    def _noisy(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, y: Tensor) -> Tensor:
            return y if self.training_only and not module.training else self._added(y, name)

        return hook

    def _added(self, y: Tensor, name: str) -> Tensor:
        """y with noise; y itself, untouched, where there is none."""
        pair = self.sigma if isinstance(self.sigma, tuple) else (self.sigma, self.sigma)
        if not self.share or not (any(pair) or self.theta) or not y.numel():
            return y
        key, rows = self._key(y, name), self._rows(y)
        additive, multiplicative = MODES[self.mode]
        new = y
        if multiplicative:
            new = new * (1 + self._std(pair[1], y, key, rows) * _normal(y, draws.fold(key, "multiplicative"), rows))
        if additive:
            new = new + self._std(pair[0], y, key, rows) * _normal(y, draws.fold(key, "additive"), rows)
        return new

    def _std(self, sigma: float, y: Tensor, key: draws.Key, rows: Rows) -> Tensor | float:
        """max(N(alpha sigma, theta^2), 0) of each sample, times `share`."""
        if not self.theta:
            return self.share * self.alpha * sigma
        draw = draws.normal(draws.rows_of(draws.fold(key, "sigma"), rows[0]), 1)
        each = self.share * (self.alpha * sigma + self.theta * draw).clamp(min=0).repeat_interleave(len(rows[1]), 0)
        return each.to(y.dtype).view(-1, *[1] * (y.dim() - 1))

    def _key(self, y: Tensor, name: str) -> draws.Key:
        if self.seed is None:
            return draws.fresh(y.device)
        use = self._uses[name]
        self._uses[name] = use + 1
        return draws.key("preactivation", self.seed, name, use)

    def _rows(self, y: Tensor) -> Rows:
        """The rows of y, sample-major where they divide into the samples of the forward."""
        n = y.shape[0] if y.dim() > 1 else 1
        samples = self._batch if self._batch and n % self._batch == 0 else n
        first = self._sample if self.seed is not None else 0
        count = torch.arange(max(samples, n // samples), dtype=torch.int32, device=y.device)
        return count[:samples] + first, count[: n // samples]


def noisy_modules(net: nn.Module) -> dict[str, nn.Module]:
    """Every module of `net` whose output is a pre-activation (or a product of its own), by name."""
    found: dict[str, nn.Module] = {}
    inside: list[str] = []  # what the parent computes without calling its children
    for name, module in net.named_modules():
        if any(name.startswith(f"{p}.") or p == "" for p in inside):
            continue
        if isinstance(module, AnalogLayer):
            arrays = module.arrays()
            found.update({name: module} if set(arrays) == {""} else {f"{name}.{k}".strip("."): a for k, a in arrays.items()})
            if set(arrays) == {""}:
                inside.append(name)
        elif isinstance(module, CLOSED):
            raise MhoError(
                f"torch's {type(module).__name__} {name!r} does not show its pre-activations; put the network on tiles first "
                "(mho.to_analog; ideal.exact computes exactly)"
            )
        elif has_matrix(module):
            found[name] = module
    if not found:
        raise MhoError(f"this {type(net).__name__} has no layer with a weight matrix")
    return found


def has_matrix(module: nn.Module) -> bool:
    """Linear layers and convolutions of any kind, Hugging Face's Conv1D too; not embeddings or norms."""
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        return True
    return type(module).__name__ == "Conv1D" and isinstance(getattr(module, "weight", None), Tensor)


def _normal(y: Tensor, key: draws.Key, rows: Rows) -> Tensor:
    """Standard normal numbers shaped like y, a stretch of them for every sample and position."""
    return draws.normal(draws.rows_of(key, *rows), y.numel() // (len(rows[0]) * len(rows[1]))).view_as(y).to(y.dtype)
