"""Hardware files: YAML text, schema, units, inheritance, and the plugins that their kinds come from."""

from typing import Any

from mho.ground.offers import offered

_HOME = {
    "hardware": ("DIGITAL", "Hardware", "LayerRule", "TileSpec", "load", "located"),
    "hooks": ("hookimpl",),
    "recipe": ("TrainingHooks", "TrainingMethod", "TrainingSpec"),
    "schema": ("Field", "Kinded", "Limits", "Strict", "kind_form", "suggest"),
    "slots": ("Slot",),
    "units": ("MicroSiemens", "Ohms", "Seconds", "Sigmas", "Span", "format_seconds", "seconds"),
    "yamltext": ("flow", "parse", "parse_value", "read", "write"),
}


def __getattr__(name: str) -> Any:
    return offered(__name__, _HOME, name)
