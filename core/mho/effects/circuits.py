"""Declared converters as the tile sees them: a DAC as the first effect on inputs, an ADC as the last on outputs."""

from typing import Any, ClassVar

from torch import Tensor

from mho.effects.converter import Adc, Dac
from mho.effects.nonideality import Nonideality
from mho.effects.site import Site


class Circuit(Nonideality):
    """The `transfer` of a converter."""

    strength: ClassVar[str | None] = None
    straight: ClassVar[bool] = True
    converter: Any = None

    def prepare(self, site: Site) -> None:
        self.converter.prepare(site)


class DacCircuit(Circuit, kind="mho.dac_circuit"):
    """What a declared DAC puts out for its ideal values."""

    def input(self, x: Tensor, site: Site) -> Tensor:
        return self.converter.transfer(x, site)


class AdcCircuit(Circuit, kind="mho.adc_circuit"):
    """What a declared ADC sees in place of an output."""

    final: ClassVar[bool] = True  # behind the output noise

    def transfer(self, y: Tensor, site: Site) -> Tensor:
        return self.converter.transfer(y, site)


def with_circuits(effects: tuple[Nonideality, ...], dac: Any, adc: Any) -> tuple[Nonideality, ...]:
    """The effects of a tile with its declared converters among them."""
    first = (DacCircuit(kind="mho.dac_circuit", converter=dac),) if isinstance(dac, Dac) and dac.declares else ()
    last = (AdcCircuit(kind="mho.adc_circuit", converter=adc),) if isinstance(adc, Adc) and adc.declares else ()
    return (*first, *effects, *last)
