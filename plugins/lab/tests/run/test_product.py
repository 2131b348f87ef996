"""The standard experiment of one matrix-vector product."""

import mho


def test_the_standard_mvm_error_is_that_of_the_paper():
    """R003-41, R003-40: 14.5 % +- 0.4 % with whole-tile-max mapping, mean of 8 matrices (paper: 15 %)."""
    hw = mho.load("pcm.standard", set=["tiles.pcm.mapping.kind=mho.tile_max"])
    assert abs(mho.standard_mvm_error(hw).mean - 0.145) < 0.004
