"""The stages of a tile in the order of the physics (R003 Eqs. 3 and 6): one table, which everybody reads."""

from typing import Literal, NamedTuple

Per = Literal["chip", "time", "call", "vector"]  # how often a draw changes
Rounding = Literal["through", "zero", "ste"]  # its derivative: masked straight-through, 0, or that of the clip
FOLDED = "folded into the weights"


class Stage(NamedTuple):
    """When something acts on a tile, and on what.

    name   the method of an effect, or the part of the tile
    when   how often it acts, for people
    takes  the tensors it is given, the one that it changes first: conductances g (µS), signed weights w (1 = the mapped
           range), inputs x in [-1, 1], outputs y in analog units
    per    how often a draw changes, unless the effect (or converter) says otherwise
    seam   what a plain method costs on the fast path; "" for what the tile does itself, where effects have no say
    """

    name: str
    when: str
    takes: str
    per: Per
    seam: str = ""

    @property
    def cells(self) -> bool:
        """Whether it changes every cell of a tile, rather than vectors."""
        return self.takes[:1] in ("g", "w")


# name -> stage. A new stage is a row here, a method of `Nonideality`, and its call in the tile.
TABLE = {
    s.name: s
    for s in (
        Stage("build", "with the layer", "", "chip"),
        Stage("map", "at conversion and remapping", "", "chip"),
        Stage("program", "once per chip", "g", "chip", FOLDED),
        Stage("prepare", "once per chip", "", "chip"),
        Stage("age", "once per age", "g", "time", FOLDED),
        Stage("fold", "once per age, into the weights", "w", "time", FOLDED),
        Stage("compensate", "once per age", "", "time"),
        Stage("dac", "per product", "x", "vector"),
        Stage("input", "per product", "x", "vector", "seam: the main product runs in fp32"),
        Stage("read", "per call, one draw for the whole batch", "w", "call", "seam: the weights are coded anew for every call"),
        Stage("passes", "per product", "x", "vector", "the reference path reads a tile several times"),
        Stage("mvm", "instead of the product", "xw", "vector", "seam: replaces the main product"),
        Stage("accumulate", "per product", "yxw", "vector", "seam: called on whole outputs, between parts of the epilogue"),
        Stage("output", "per product", "y", "vector", "seam: called on whole outputs, between parts of the epilogue"),
        Stage("adc", "per product", "y", "vector"),
    )
}


def acting() -> tuple[str, ...]:
    """The stages at which effects act, in order."""
    return tuple(s.name for s in TABLE.values() if s.seam)


STAGES = acting()
