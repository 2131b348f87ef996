"""A weight matrix on tiles: layout, devices, the chip that is on, and the reference path of one product."""
