"""What a user does with a network: convert, program, age, calibrate, train, evaluate, save."""

import importlib
from typing import Any

_HOME = {
    "Method": "calibration",
    "calibrate": "calibration",
    "run_batch": "calibration",
    "load_model": "checkpoint",
    "save_model": "checkpoint",
    "Chip": "chip",
    "Time": "chip",
    "age": "chip",
    "chip_on": "chip",
    "keeping_chip": "chip",
    "keeping_modes": "chip",
    "load_chip": "chip",
    "matrices": "chip",
    "program": "chip",
    "run_of": "chip",
    "unprogram": "chip",
    "ConversionReport": "convert",
    "conversion_report": "convert",
    "keep_stored": "convert",
    "to_analog": "convert",
    "to_digital": "convert",
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "normalised_accuracy": "evaluation",
    "one_chip": "evaluation",
    "Tile": "matrix",
    "mvm_error": "metrics",
    "Attached": "training",
    "attach": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(name)
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
