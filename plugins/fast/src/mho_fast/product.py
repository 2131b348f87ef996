"""What the steps of one fused product know of its call."""

from dataclasses import dataclass
from typing import Any

from mho.tile import Call, TileView
from mho_fast.codes import Packed
from mho_fast.epilogue import Epilogue
from mho_fast.kernels import Kernels
from mho_fast.route import Route


@dataclass(frozen=True)
class Product:
    """What a fused product knows besides tensors; without `source` it codes weights only."""

    call: Call
    route: Route
    kernels: Kernels
    keep: bool  # whether a backward pass may follow
    by_reference: bool  # whether gradients come from the reference path
    source: Any = None  # Source
    shares: bool = False  # whether the codes of the weights are done with before the next call
    packed: Packed | None = None  # the planes that the products read, where they outlast the call
    part: int | None = None  # which part of the inputs it applies; None: all

    @property
    def view(self) -> TileView:
        return self.call.view

    @property
    def epilogue(self) -> Epilogue:
        return Epilogue(self.view, self.route, self.call, parts=self.part is not None)
