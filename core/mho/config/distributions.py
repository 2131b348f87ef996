"""What is installed, from metadata alone: who provides a family or a verb, in which version, and what it requires."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packaging.requirements import Requirement

FAMILIES = "mho"  # entry-point group of plugins: family = module
VERBS = "mho.commands"  # entry-point group of commands: verb = module:command
SECTIONS = "mho.training"  # entry-point group of keys of `training:`: key = kind
BACKENDS = "mho.backends"  # entry-point group of back-ends of tiles: name = module:attribute
NAMES = "mho.names"  # entry-point group of public names: name = module:attribute

# What our own plugins add, so that mho can say what to install: keys of `training:` -> kinds.
OUR_SECTIONS = {key: [f"qat.{key}"] for key in ("distill", "noise", "quantise", "schedule")}


def entry_points(group: str, path: Sequence[str] | None = None) -> dict[str, list[metadata.EntryPoint]]:
    """Name -> the entry points that claim it. Of a distribution that is found twice, the first counts, as for imports."""
    seen: set[str] = set()
    claims: dict[str, list[metadata.EntryPoint]] = {}
    distributions = metadata.distributions() if path is None else metadata.distributions(path=list(path))
    for distribution in distributions:
        name = distribution.metadata.get_all("Name", [""])[0].lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        for point in distribution.entry_points:
            if point.group == group:
                claims.setdefault(point.name, []).append(point)
    return dict(sorted(claims.items()))


def owner(point: metadata.EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that an entry point belongs to."""
    return (point.dist.name, point.dist.version) if point.dist is not None else ("unknown distribution", "")


def owners(points: Iterable[metadata.EntryPoint]) -> str:
    """mho-one 1.0 and mho-two 1.0"""
    return " and ".join(" ".join(owner(p)) for p in points)


def about(points: Sequence[metadata.EntryPoint]) -> str:
    """What a distribution says of itself in one line, with its name."""
    said = points[0].dist.metadata.get_all("Summary", [""])[0] if points[0].dist is not None else ""
    return f"{said} ({owners(points)})" if said else f"From {owners(points)}."


def several(points: Sequence[metadata.EntryPoint], what: str) -> str:
    """What to say where more than one distribution claims something."""
    return f"{len(points)} distributions claim {what}: {owners(points)}; uninstall all but one"


def unmet(text: str) -> str:
    """What is wrong with a requirement such as 'mho-pcm>=0.1', "" if it is met."""
    requirement = _parsed(text)
    if requirement is None or requirement.url or requirement.extras or requirement.marker:
        return f"expected a requirement such as 'mho-pcm>=0.1', got {text!r}"
    try:
        installed = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement} is not installed; try: pip install '{requirement}'"
    if not requirement.specifier.contains(installed, prereleases=True):
        return f"{requirement} is needed, but {installed} is installed; try: pip install -U '{requirement}'"
    return ""


def needs_another(point: metadata.EntryPoint, name: str) -> str:
    """Which version of `name` the distribution of an entry point asks for instead of the installed one, "" if it fits."""
    installed = metadata.version(name)
    written = (point.dist.requires if point.dist is not None else None) or ()
    for requirement in filter(None, map(_parsed, written)):  # what nobody can read, pip could not either
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        fits = requirement.specifier.contains(installed, prereleases=True)
        if requirement.name.lower() == name and applies and not fits:
            needed = f"it needs {name}{requirement.specifier}, but {name} {installed} is installed"
            return f"{needed}; try: pip install -U {name} {owner(point)[0]}"
    return ""


def _parsed(text: str) -> Requirement | None:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return Requirement(text)
    except InvalidRequirement:
        return None


@functools.cache
def ours() -> dict[str, Any]:
    """Distribution of ours -> the `names`, `calibrations` and `verbs` with their help that it adds: the table in ours.toml."""
    return tomllib.loads(Path(__file__).with_name("ours.toml").read_text(encoding="utf-8"))


def comes_with(what: str) -> str:
    """The distribution of ours that provides a verb, a public name or a calibration ("dac.mse"), "" if none does."""
    return next((d for d, added in ours().items() if any(what in part for part in added.values())), "")


@functools.cache
def public_name(name: str) -> Any:
    """`mho.NAME` of a plugin, imported."""
    points = entry_points(NAMES).get(name, [])
    if len(points) == 1:
        return points[0].load()
    if points:
        raise AttributeError(several(points, f"mho.{name}"))
    hint = f"; it comes with {d}: pip install {d}" if (d := comes_with(name)) else ""
    raise AttributeError(f"module 'mho' has no attribute {name!r}{hint}")
