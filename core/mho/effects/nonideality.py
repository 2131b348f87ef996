"""The effect contract: what the author of a nonideality writes, and what the core derives from it.

A nonideality is a frozen pydantic model whose overridden methods are the physics. It speaks one of two languages,
and may mix them:

plain      override `program`, `age`, `input`, `fold`, `read`, `passes`, `mvm`, `accumulate` or `output`, with any torch code;
declared   name `sides`, products phi(W).psi(x) that the tile computes beside W.x, and write pointwise terms over them:
           `shift` (added to y), `variance` (of fresh Gaussian noise added to y), `transfer` (y -> f(y)).

Whoever declares gets the plain method for free, so an effect is written once and every path runs the same formula.

Shapes: g [dev, tile, out, row] in µS; w [tile, out, row], signed, 1 = the mapped range; x [..., tile, row] in
[-1, 1]; y [..., tile, out] in analog units (one row fully on through one weight of 1 gives 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic.fields import FieldInfo

from mho.config import Field, Kinded
from mho.effects import stages
from mho.ground import MhoError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mho.effects.site import Site

TERMS = ("shift", "variance", "transfer")


class Side(NamedTuple):
    """A product phi(W).psi(x) that the tile computes beside W.x. Equal functions are computed once, whoever asks.

    `phi(w, site)` returns a tensor shaped like w, of any range; `psi(x)` maps [-1, 1] into itself, and should fill it: the fast
    path rounds both to 1/127, phi of its range on a tile, psi of 1.
    """

    phi: Callable[[Tensor, Site], Tensor]
    psi: Callable[[Tensor], Tensor]


# Side functions that everybody shares: sharing goes by identity, so use these where they fit.
def signed(w: Tensor, site: Site) -> Tensor:
    """w"""
    return w


def magnitude(w: Tensor, site: Site) -> Tensor:
    """|w|"""
    return w.abs()


def conductance(w: Tensor, site: Site) -> Tensor:
    """|w| + 2 g_min/(g_max - g_min), what both devices of a weight conduct"""
    idle = site.geometry.idle
    return w.abs() + 2 * idle * site.rows.used.to(w)[:, None, :] if idle else w.abs()


def by_depth(w: Tensor, site: Site) -> Tensor:
    """w (1 - (1 - j/n)^2), j = 0 next to the sense node, n occupied rows (R003 Eq. 18)"""
    return w * (1 - (1 - site.rows.depth[:, None, :]) ** 2)


def linear(x: Tensor) -> Tensor:
    """x"""
    return x


def absolute(x: Tensor) -> Tensor:
    """|x|"""
    return x.abs()


def square(x: Tensor) -> Tensor:
    """x^2"""
    return x * x


def product(x: Tensor, w: Tensor) -> Tensor:
    """The exact analog product y_i = sum_j w_ij x_j of every tile: x [..., tile, row], w [tile, out, row] -> [..., tile, out]."""
    if w.shape[-3] == 1:
        return (x.squeeze(-2) @ w.squeeze(-3).mT).unsqueeze(-2)
    return torch.einsum("...tr,tor->...to", x, w)


def root(v: Tensor | float) -> Tensor | float:
    """The square root, with derivative 0 instead of infinity at 0: a vector of zeros has no noise, and a gradient."""
    if not isinstance(v, torch.Tensor):
        return v**0.5
    return torch.where(v > 0, torch.where(v > 0, v, torch.ones_like(v)).sqrt(), torch.zeros_like(v))


class Nonideality(Kinded):
    """One way in which an analog tile departs from the exact product W @ x.

    Class variables an author may set:

    example     values of fields with which the effect can be seen at work, where the defaults are refused or do nothing
    example_tile  YAML of the tile on which it is tried, where its devices have another range: "device: {g_max: 40 uS}"
    source      where the physics comes from, one line
    bibtex      the same as BibTeX entries, for `mho cite`
    strength    the field that sweeps and sensitivity studies turn; 0 removes the effect. The default is `scale`,
                a factor that the base applies: scale * shift, scale^2 * variance, y + scale (transfer(y) - y),
                in + scale (out - in) for plain stages. None: the effect has no strength.
    own_scale   True: plain stages use `self.scale` themselves (drift scales nu, not the drop)
    cellwise    True: program, age and read treat each cell alone, so the core may run them in blocks
    noise       True: acts behind the other effects of its stage, wherever it is listed: read noise on what drift has left. Where
                `variance` is the only term, it is so anyway: output noise does not pass the curve of a nonlinearity
    final       True: acts after all other effects of its stage, wherever it is listed (stuck cells)
    sides       named side products; the declared terms receive them as keywords
    straight    True: plain `input`, `read`, `accumulate` and `output` count as the identity in backward, as declared terms do;
                in mode autograd they have their true derivative all the same
    backward    of the declared terms in training: "straight" (identity, R003-65) or "exact" (autograd); "none": no gradient
    """

    CATEGORY: ClassVar[str] = "nonideality"
    strength: ClassVar[str | None] = "scale"
    own_scale: ClassVar[bool] = False
    cellwise: ClassVar[bool] = False
    noise: ClassVar[bool] = False
    final: ClassVar[bool] = False
    straight: ClassVar[bool] = False
    sides: ClassVar[dict[str, Side]] = {}
    backward: ClassVar[Literal["straight", "exact", "none"]] = "straight"

    scale: float = Field(1.0, ge=0, unit="1", source="mho", description="strength of the whole effect; 0 removes it")

    @classmethod
    def _adjust_fields(cls, fields: dict[str, FieldInfo]) -> None:
        """A class that names another field as its strength has no `scale`."""
        if cls.strength != "scale":
            fields.pop("scale", None)
        if cls.strength is not None and cls.strength not in fields:
            raise TypeError(f"{cls.__qualname__}: strength {cls.strength!r} is not one of its fields ({', '.join(fields)})")

    # Plain: any torch code. One call sees all row tiles of a layer.
    def program(self, g: Tensor, site: Site) -> Tensor:
        """Conductances after programming, µS [dev, tile, out, row]; once per chip."""
        return g

    def build(self, site: Site) -> nn.Module:
        """What the effect learns, or keeps besides, in this layer: made with the layer, a part of it, `site.module` in all
        other methods. Its parameters are trained and saved with the network, they are the same for all chips, and they
        get gradients where gradients flow: in `input`, `read`, `mvm`, `accumulate` and `output`. First values come from
        the site's draws."""
        raise NotImplementedError  # never called unless a subclass writes it

    def prepare(self, site: Site) -> None:
        """Set constants of the chip, e.g. `site.zeta = ...`; they come back as `site.zeta` in the other stages."""

    def age(self, g: Tensor, t: float, site: Site) -> Tensor:
        """Conductances t seconds after programming, µS; always from the programmed g, never from an aged one. In a compiled
        kernel, which serves all times, t is a tensor; a law that needs a number runs eagerly."""
        return g

    def fold(self, w: Tensor, site: Site) -> Tensor:
        """Whatever is linear in x, put into the weights once after each `age`."""
        return w

    def input(self, x: Tensor, site: Site) -> Tensor:
        """The analog input behind the DAC, [..., tile, row] in [-1, 1]."""
        return x

    def read(self, w: Tensor, site: Site) -> Tensor:
        """The weights that this forward call sees: one draw for the whole batch."""
        return w

    def passes(self, x: Tensor, site: Site) -> tuple[Tensor, ...]:
        """The passes in which one MVM is read: inputs like x whose sum is x, each with noise of its own. At most one
        effect of a tile may write it; where the passes meet says `apart`."""
        return (x,)

    @property
    def apart(self) -> bool:
        """Whether `passes` are converted each and meet on the digital side, else in front of the output stage."""
        return False

    def mvm(self, x: Tensor, w: Tensor, site: Site) -> Tensor:
        """Replaces the product, [..., tile, out]; at most one effect of a tile may."""
        return product(x, w)

    def accumulate(self, y: Tensor, x: Tensor, w: Tensor, site: Site) -> Tensor:
        """Changes the accumulated outputs knowing x and w. Derived from the terms where there are sides."""
        if not self.sides:
            return y
        return self._terms(y, site, {n: product(s.psi(x), s.phi(w, site)) for n, s in self.sides.items()})

    def output(self, y: Tensor, site: Site) -> Tensor:
        """Changes the outputs in front of the ADC. Derived from the terms where there are no sides."""
        return y if self.sides else self._terms(y, site, {})

    # Declared: pointwise in their arguments.
    def shift(self, site: Site, **sides: Tensor) -> Tensor | float:
        """Added to y; may not look at y."""
        raise NotImplementedError  # never called unless a subclass writes it

    def variance(self, site: Site, **sides: Tensor) -> Tensor | float:
        """Variance of Gaussian noise added to y, fresh per vector and output."""
        raise NotImplementedError

    def transfer(self, y: Tensor, site: Site) -> Tensor:
        """y -> f(y)."""
        raise NotImplementedError

    # Derived by the core: the terms with the strength mixed in.
    def _terms(self, y: Tensor, site: Site, products: dict[str, Tensor]) -> Tensor:
        if self.writes("shift"):
            y = y + self.scaled_shift(site, products)
        if self.writes("transfer"):
            y = self.scaled_transfer(y, site)
        if self.writes("variance"):
            y = y + root(self.scaled_variance(site, products)) * site.randn_like(y)
        return y

    def scaled_shift(self, site: Site, products: dict[str, Tensor]) -> Tensor | float:
        """`shift` times the factor f of the base: y + f shift, y [..., tile, out]."""
        value = self.shift(site, **products)
        return value if self.factor == 1 else self.factor * value

    def scaled_variance(self, site: Site, products: dict[str, Tensor]) -> Tensor | float:
        """`variance` times f^2: the standard deviation of the noise is f times as large."""
        value = self.variance(site, **products)
        return value if self.factor == 1 else self.factor**2 * value

    def scaled_transfer(self, y: Tensor, site: Site) -> Tensor:
        """y + f (transfer(y) - y), y [..., tile, out]: f = 0 is no transfer."""
        new = self.transfer(y, site)
        return new if self.factor == 1 else y + self.factor * (new - y)

    @property
    def factor(self) -> float:
        """The factor that the base applies: `scale`, or 1 where the author uses a strength of their own."""
        return self.scale if self.strength == "scale" and not self.own_scale else 1.0

    @property
    def active(self) -> bool:
        """False at strength 0: the effect is then left out of the plan, bit for bit as if it were not listed."""
        return self.strength is None or bool(getattr(self, self.strength) != 0)

    @classmethod
    def writes(cls, name: str) -> bool:
        """Whether the class overrides this stage or term."""
        return getattr(cls, name) is not getattr(Nonideality, name)

    @classmethod
    def declares(cls) -> bool:
        """Whether the class writes a declared term."""
        return any(cls.writes(t) for t in TERMS)

    @classmethod
    def place(cls, stage: str) -> tuple[bool, bool]:
        """Sorts the effects of a stage into the order of the signal, in the order of the hardware file inside each group
        (R003-09: sum, IR-drop, short-term noise, nonlinearity, output noise). While outputs accumulate, curves come last;
        in the other stages noise does; behind them final effects."""
        only_variance = cls.writes("variance") and not (cls.writes("shift") or cls.writes("transfer"))
        return cls.final, cls.writes("transfer") if stage == "accumulate" else cls.noise or only_variance

    @classmethod
    def drawn_in_bound(cls) -> bool:
        """A transfer curve is drawn relative to the output bound."""
        return cls.writes("transfer")

    @classmethod
    def stages(cls) -> tuple[str, ...]:
        """The stages this effect acts at, in the order of the physics."""
        declared = ("accumulate" if cls.sides else "output") if cls.declares() else ""
        return tuple(s for s in stages.acting() if s == declared or cls.writes(s))

    def apply(self, stage: str, value: Tensor, *args: Any) -> Tensor:
        """One plain stage, with the strength mixed in: value + factor (new - value). Raises `MhoError` where the effect returns
        another shape."""
        new: Tensor = getattr(self, stage)(value, *args)
        if new.shape != value.shape:
            needed = f"the core needs {[*value.shape]} (count axes from the end)"
            raise MhoError(f"{stage} of {self.kind} returns shape {[*new.shape]}, {needed}")
        return new if self.factor == 1 or not self.writes(stage) else value + self.factor * (new - value)
