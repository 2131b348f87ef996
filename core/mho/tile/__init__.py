"""A weight matrix on tiles: layout, devices, the chip that is on, and the reference path of one product."""

from mho.tile.array import Drawn, TileArray, tile_arrays
from mho.tile.layout import Layout, blocks
from mho.tile.mvm import Call, Mvm
from mho.tile.patches import Patches, vectors
from mho.tile.plan import resolve
from mho.tile.programmed import Programmed
from mho.tile.session import Session, batch_size, stream_of
from mho.tile.view import TileView
