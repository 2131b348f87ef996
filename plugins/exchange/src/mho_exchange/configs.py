"""Configurations of other tools as hardware files: aihwkit's `rpu_config`, CrossSim's parameters; with what is lost."""

import math
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple

from mho.config import Hardware, write
from mho.ground import MhoError, table

Made = dict[str, Any]  # path inside of the hardware file -> value; "effect KIND FIELD" for an effect
Rule = Callable[[Any, dict[str, Any]], Made | None]  # None: it has no counterpart
WIRE = 0.35  # ohm, of Rasch et al. 2023: aihwkit knows the product of wire and conductance only


class Translation(NamedTuple):
    """`yaml` is a hardware file; `kept` what became what, `lost` what has no counterpart: (name there, value, ...)."""

    yaml: str
    kept: list[tuple[str, str, str]]
    lost: list[tuple[str, str]]

    def __str__(self) -> str:
        rows = [*self.kept, *((name, value, "no counterpart") for name, value in self.lost)]
        return f"{table(('there', 'value', 'here'), rows)}\n"


def translated(config: Any) -> Translation:
    """An `rpu_config` of aihwkit or aihwkit-lightning (the object, or nested dicts of its fields, such as JSON holds them),
    or the JSON of CrossSim's parameters, as a hardware file. Raises `MhoError` for anything else."""
    flat = dict(_flat(config))
    if "core.rows_max" in flat:
        rules, tool = CROSSSIM, "CrossSim"
    elif any(k.startswith("forward.") for k in flat) and any(k.startswith("mapping.") for k in flat):
        rules, tool = AIHWKIT, "aihwkit"
    else:
        raise MhoError("neither an rpu_config of aihwkit (forward, mapping) nor parameters of CrossSim (core, xbar)")
    made: Made = {}
    kept, used = [], set()
    for name, rule in rules.items():
        if name in flat and (found := rule(flat[name], flat)) is not None:
            used |= {name}
            made |= found
            kept += [(name, str(flat[name]), f"{k}: {v}") for k, v in found.items()]
    rest = [k for k in flat if k not in used and not k.startswith(SILENT) and not k.endswith(".class")]
    lost = [(k, str(flat[k])) for k in rest if not _idle(k, flat[k], flat)]
    yaml = write(_file(made, f"translated from {tool}"))
    return Translation(Hardware.from_yaml(yaml, f"<{tool}>").to_yaml() if made else yaml, kept, lost)


def _file(made: Made, about: str) -> dict[str, Any]:
    tile: dict[str, Any] = {"dac": "none", "adc": "none"}
    effects: dict[str, dict[str, Any]] = {}
    training: dict[str, Any] = {}
    for path, value in made.items():
        if path.startswith("effect "):
            _, kind, *field = path.split()
            effects.setdefault(kind, {"kind": kind}).update(dict.fromkeys(field, value))
            continue
        place, *rest = path.split(".")
        at, keys = (training, rest) if place == "training" else (tile, [place, *rest])
        for key in keys[:-1]:
            at[key] = at[key] if isinstance(at.get(key), dict) else {}
            at = at[key]
        at[keys[-1]] = value
    tile["nonidealities"] = list(effects.values())
    return {"mho": 1, "description": about, "default": "tile", "tiles": {"tile": tile}, "training": training}


def _flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of all fields; of an object without fields its class, of an enum its name."""
    items = config if isinstance(config, Mapping) else getattr(config, "__dict__", None)
    if isinstance(config, Enum) or items is None or not items:
        yield prefix[:-1], config.name if isinstance(config, Enum) else config if items is None else type(config).__name__
        return
    if not isinstance(config, Mapping):
        yield f"{prefix}class", type(config).__name__
    for name, value in items.items():
        yield from _flat(value, f"{prefix}{name}.")


def _idle(name: str, value: Any, flat: dict[str, Any]) -> bool:
    """Whether a setting does nothing: off, or in a part that is off."""
    parts = name.split(".")
    parents = [".".join(parts[:n]) for n in range(1, len(parts))]
    off = any(flat.get(f"{p}.enable") is False or _word(flat.get(f"{p}.type", "")) == "NONE" for p in parents)
    return off or value in (0, None, False, "", -1, []) or _word(value) in ("NONE", "IDEALDEVICE")


def _word(value: Any) -> str:
    return str(getattr(value, "name", value)).rpartition(".")[2].upper().replace("_", "")


def _bits(resolution: float) -> int | str:
    """Bits of `inp_res`: a number of steps, or its inverse; 2^b - 2 steps are b bits."""
    steps = 1 / resolution if 0 < resolution < 1 else resolution
    return "none" if steps <= 0 else max(2, round(math.log2(steps + 2)))


def _size(limit: int) -> int:
    """The largest side of a tile; aihwkit writes 0 where there is none."""
    return limit if limit > 0 else 1 << 16


def _field(path: str, change: Callable[[Any], Any] = lambda v: v, when: Callable[[Any], bool] = lambda v: True) -> Rule:
    return lambda value, flat: {path: change(value)} if when(value) else None


def _positive(value: Any) -> bool:
    return value is not None and value > 0


def _one_of(path: str, names: dict[str, Any]) -> Rule:
    return lambda value, flat: {path: names[_word(value)]} if _word(value) in names else None


def _ir_drop(value: Any, flat: dict[str, Any]) -> Made:
    ratio = flat.get("forward.ir_drop_g_ratio", 1 / (WIRE * 5e-6))
    effect = "effect circuit.ir_drop"
    return {f"{effect} scale": value, f"{effect} r_wire": WIRE, f"{effect} g_line": 1e6 / (ratio * WIRE)} if value else {}


def _halvings(value: Any, flat: dict[str, Any]) -> Made:
    most = int(math.log2(max(2, flat.get("forward.max_bm_factor", 1000))))
    return {"dac.halvings": min(16, most)} if "ITERATIVE" in _word(value) else {}


def _clip(value: Any, flat: dict[str, Any]) -> Made:
    kind = _word(value)
    if kind.startswith("LAYERGAUSSIAN"):
        return {"training.clip": f"{flat['clip.sigma']:g} sigma"}
    return {"training.clip": flat["clip.fixed_value"]} if kind == "FIXEDVALUE" else {"training.clip": "none"}


def _noise(value: Any, flat: dict[str, Any]) -> Made:
    kinds = ("pcm.programming_noise", "pcm.drift", "pcm.read_noise_1f") if _word(value) == "PCMLIKENOISEMODEL" else ()
    g_max = {"device.g_max": flat["noise_model.g_max"]} if "noise_model.g_max" in flat else {}
    return {f"effect {k}": "" for k in kinds} | g_max


def _g(value: Any, flat: dict[str, Any]) -> Made:
    infinite = flat.get("xbar.device.infinite_on_off_ratio")
    return {"device.g_max": 1e6 / value, "device.g_min": 0.0 if infinite else 1e6 / flat["xbar.device.Rmax"]}


def _parasitics(value: Any, flat: dict[str, Any]) -> Made:
    wires = {"r_word": "Rp_row", "r_bit": "Rp_col"}
    effect, array = "effect circuit.ir_drop_nodal", "xbar.array.parasitics"
    found = {f"{effect} {ours}": flat[f"{array}.{theirs}"] for ours, theirs in wires.items()}
    return found | {f"{effect} g_line": 1e6 / flat["xbar.device.Rmin"]} if value else {}


AIHWKIT: dict[str, Rule] = {
    "mapping.max_input_size": _field("rows", _size),
    "mapping.max_output_size": _field("columns", _size),
    "mapping.weight_scaling_omega": lambda v, flat: {
        "mapping": ("mho.per_column" if flat.get("mapping.weight_scaling_columnwise") else "mho.tile_max") if v else "mho.direct"
    },
    "mapping.learn_out_scaling": lambda v, flat: (
        {"training.out_scale": "column" if flat.get("mapping.out_scaling_columnwise") else "tile"} if v else {}
    ),
    "forward.inp_res": _field("dac.bits", _bits),
    "forward.out_bound": _field("adc.bound", lambda v: v if v > 0 else "none"),
    "forward.out_res": lambda v, flat: {"adc.bits": _bits(v) if flat.get("forward.out_bound", 0) > 0 else "none"},
    "forward.out_noise": _field("effect circuit.output_noise std", when=_positive),
    "forward.w_noise": lambda v, flat: (
        {"effect pcm.read_noise sigma": v} if v and _word(flat.get("forward.w_noise_type")) == "PCMREAD" else None
    ),
    "forward.ir_drop": _ir_drop,
    "forward.noise_management": _one_of("dac.range", {"ABSMAX": "dynamic"}),
    "forward.bound_management": _halvings,
    "pre_post.input_range.enable": _field("dac.range", lambda v: "learned", bool),
    "modifier.pdrop": _field("training.drop_connect", when=_positive),
    "modifier.std_dev": lambda v, flat: {"training.inject.scale": v} if _word(flat["modifier.type"]) == "PROGNOISE" else None,
    "modifier.type": lambda v, flat: {} if _word(v) == "PROGNOISE" else None,
    "clip.type": _clip,
    "remap.type": _field("training.remap", lambda v: "1 epoch", lambda v: _word(v) != "NONE"),
    "noise_model.class": _noise,
    "drift_compensation.class": _one_of("compensation", {"GLOBALDRIFTCOMPENSATION": "mho.global_drift"}),
    "drift_compensation": _one_of("compensation", {"GLOBALDRIFTCOMPENSATION": "mho.global_drift"}),
}
CROSSSIM: dict[str, Rule] = {
    "core.rows_max": _field("rows"),
    "core.cols_max": _field("columns"),
    "core.style": lambda v, flat: {"device.pair": "both"} if v == 1 or _word(v) == "BALANCED" else None,
    "xbar.device.Rmin": _g,
    "xbar.device.cell_bits": _field("effect ideal.device levels", lambda v: 2**v, _positive),
    "xbar.array.parasitics.enable": _parasitics,
    "xbar.dac.mvm.bits": _field("dac.bits", when=_positive),
    "xbar.adc.mvm.bits": _field("adc.bits", when=_positive),
}
# What says how to compute, or repeats something: not worth a row of its own.
SILENT = (
    "simulation.", "core.balanced.", "core.bit_sliced.", "core.offset.", "core.mapping.inputs.", "xbar.adc.vmm.", "xbar.dac.vmm.",
    "xbar.adc._match", "xbar.dac._match", "class", "runtime.", "tile_class", "update.", "backward.",
    # read together with another setting, by the rule of that one
    "mapping.weight_scaling_columnwise", "mapping.out_scaling_columnwise", "forward.w_noise_type", "forward.ir_drop_g_ratio",
    "forward.max_bm_factor", "clip.sigma", "clip.fixed_value", "noise_model.g_max",
    "xbar.device.Rmax", "xbar.device.infinite_on_off_ratio", "xbar.array.parasitics.Rp_row", "xbar.array.parasitics.Rp_col",
)  # fmt: skip
