"""Two small plugins in a folder of their own, found through real entry points."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mho.config import registry

CORE = '''
from typing import ClassVar, Literal
from mho.config.hooks import hookimpl
from mho.config.schema import Field, Kinded
from mho.config.units import Sigmas

class Mapping(Kinded):
    CATEGORY: ClassVar[str] = "mapping"
    clip: Sigmas | None = Field(None, description="clip before mapping")

class PerColumn(Mapping, kind="mho.per_column"):
    """Every column fills the range."""

class TileMax(Mapping, kind="mho.tile_max"):
    """The largest weight fills the range."""
    headroom: float = Field(1.0, ge=1, unit="1")

class Converter(Kinded):
    bits: int | None = Field(8, ge=2, le=16, unit="bit", description="resolution")

class Dac(Converter, kind="mho.dac"):
    CATEGORY: ClassVar[str] = "dac"
    range: float | Literal["learned", "dynamic"] = Field("learned", gt=0)

class Adc(Converter, kind="mho.adc"):
    CATEGORY: ClassVar[str] = "adc"
    bound: float = Field(10.0, gt=0)

class GlobalDrift(Kinded, kind="mho.global_drift"):
    CATEGORY: ClassVar[str] = "compensation"
    vectors: int = Field(64, ge=1)

@hookimpl
def mho_mappings():
    return [PerColumn, TileMax]

@hookimpl
def mho_converters():
    return [Dac, Adc]

@hookimpl
def mho_compensations():
    return [GlobalDrift]
'''

PCM = '''
from typing import ClassVar
from mho.config.hooks import hookimpl
from mho.config.schema import Field, Kinded
from mho.config.units import Seconds

class Effect(Kinded):
    CATEGORY: ClassVar[str] = "nonideality"
    scale: float = Field(1.0, ge=0, unit="1", description="strength")

class Drift(Effect, kind="pcm.drift"):
    """Conductances decay with time."""
    source = "R003 Eq. 8"
    nu_mean: float = Field(0.06, ge=0, unit="1", source="R003 Eq. 9", description="mean drift exponent")
    nu_std: float = Field(0.02, ge=0, unit="1", description="its spread")
    t0: Seconds = Field(20.0, gt=0, unit="s", description="when the target conductance is defined")

class ReadNoise(Effect, kind="pcm.read_noise"):
    """Gaussian noise at every read."""
    sigma: float = Field(0.0175, ge=0, unit="1")

@hookimpl
def mho_nonidealities():
    return [Drift, ReadNoise]
'''

STANDARD = """\
# The usual PCM.
mho: 1
default: pcm
tiles:
  pcm:
    device: {g_max: 25 uS}
    dac: {bits: 8}
    adc: {bits: 8, bound: 10}
    nonidealities:
      - pcm.drift
      - {kind: pcm.read_noise, sigma: 0.02}
    compensation: mho.global_drift
training:
  backward: autograd
"""

Plugin = Callable[..., None]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugin]:
    """Installs a plugin: a module, its presets, and the metadata that a wheel would leave behind."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def install(
        family: str,
        code: str,
        *,
        distribution: str = "",
        module: str = "",
        version: str = "1.0",
        requires: str = "",
        sections: str = "",
        **presets: str,
    ) -> None:
        distribution, module = distribution or f"fake-{family}", module or f"fake_{family}"
        (site / module / "presets").mkdir(parents=True, exist_ok=True)
        (site / module / "__init__.py").write_text(textwrap.dedent(code))
        for name, text in presets.items():
            (site / module / "presets" / f"{name}.yaml").write_text(text)
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        needs = f"Requires-Dist: {requires}\n" if requires else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{needs}")
        (info / "entry_points.txt").write_text(f"[mho]\n{family} = {module}\n\n[mho.training]\n{sections}\n")
        importlib.invalidate_caches()

    yield install
    for name in set(sys.modules) - before:
        if name.startswith(("fake_", "mho_file_")):
            del sys.modules[name]


@pytest.fixture
def plugins(plugin: Plugin, tmp_path: Path) -> Iterator[registry.Registry]:
    """A registry with a small core and a small pcm plugin, and nothing that is really installed."""
    plugin("mho", CORE, distribution="mho", module="fake_core")
    plugin("pcm", PCM, standard=STANDARD)
    with registry.using(registry.Registry([str(tmp_path / "site")])) as fresh:
        yield fresh
