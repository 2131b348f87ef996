"""What the terms of effects are given in one call, or in a kernel."""

from dataclasses import replace

from mho.effects import Per, Site, Stream, draws
from mho.ground import MhoError
from mho.tile import Call, Constants, Placed, TileView
from mho_fast.route import Route


class Closed(Stream):
    """The stream of compiled terms, which cannot draw: keys are no arguments of theirs."""

    def key(self, per: Per) -> draws.Key:
        raise MhoError("random numbers cannot be drawn in a compiled term")


CLOSED = Closed(draws.Key(0, 0), draws.Key(0, 0))


class Terms:
    """The sites of effects. A kernel knows no `call`: it has a closed stream, and is given the `constants` of the effects."""

    def __init__(self, view: TileView, route: Route, call: Call | None, constants: Constants | None = None) -> None:
        self.view, self.route, self.call = view, route, call
        self.given = {} if constants is None else constants
        self.sites: dict[tuple[str, int], Site] = {}

    def site(self, p: Placed, stage: str, part: slice | None = None) -> Site:
        """The site of an effect, made once per call."""
        if (stage, p.number) not in self.sites:
            if self.call is None:
                site = self.view.site(p, stage, CLOSED, constants=self.given.get(p.number, {}))
            else:
                site = self.call.site(p, stage)
            self.sites[stage, p.number] = site
        site = self.sites[stage, p.number]
        return site if part is None else replace(site, part=part)

    def phi_sites(self) -> list[Site]:
        return [self.site(p, "accumulate") for p in self.route.askers]

    @property
    def constants(self) -> Constants:
        """What `prepare` has set for the effects that a kernel asks."""
        return {p.number: self.site(p, "accumulate" if p.effect.sides else "output").constants for p in self.route.preparing}
