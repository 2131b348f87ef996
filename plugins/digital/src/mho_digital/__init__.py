"""Digital repairs around analog tiles: what survives without training, chosen layer by layer, and low-rank adapters."""

from mho import Correction, hookimpl
from mho_digital.adapters import Adapter
from mho_digital.corrections import Affine, ChannelScaling, OutlierChannels


@hookimpl
def mho_corrections() -> list[type[Correction]]:
    return [ChannelScaling, OutlierChannels, Affine, Adapter]


@hookimpl
def mho_calibrations() -> dict[str, str]:
    """The choice of remedies for every layer, and conductance ranges from the statistics of columns."""
    return {"method.auto": "mho_digital.auto:auto", "columns.statistics": "mho_digital.auto:columns"}
