"""The contract: effects, converters, mappings and compensations, and what they may know of a tile."""

from typing import Any

from mho.ground.offers import offered

_HOME = {
    "compensation": ("Compensation",),
    "converter": ("Adc", "Converter", "Dac", "Rounding"),
    "gradient": ("straight",),
    "mapping": ("Mapping",),
    "measurements": ("Column", "Measurements", "Residuals", "normal_distribution", "normal_log_density"),
    "nonideality": (
        *("TERMS", "Nonideality", "Side", "product"),
        *("absolute", "by_depth", "linear", "magnitude", "signed", "square"),
    ),
    "quantiser": ("Quantiser", "QuantiserModule", "What", "quantisers", "unquantised"),
    "site": ("Geometry", "Per", "Rows", "Site", "Stream"),
    "stages": ("STAGES", "TABLE", "Stage"),
    "stuck": ("StuckAt",),
    "surrogate": ("Surrogate",),
}


def __getattr__(name: str) -> Any:
    return offered(__name__, _HOME, name)
