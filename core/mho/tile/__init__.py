"""A weight matrix on tiles: layout, devices, the chip that is on, and the reference path of one product."""

from mho.tile.array import TileArray, tile_arrays
from mho.tile.backend import Backend, Drawn, backend_for, installed
from mho.tile.devices import Devices
from mho.tile.layout import Layout, blocks
from mho.tile.mvm import Call, Mvm
from mho.tile.patches import POINT, Patches, Window, vectors
from mho.tile.plan import Placed, Plan, resolve
from mho.tile.programmed import Programmed, keys_at
from mho.tile.session import Session, batch_size, stream_of
from mho.tile.view import Constants, TileView
from mho.tile.watch import unwatched
