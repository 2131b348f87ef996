"""An exact device: the yardstick every other device is measured with, and the plugin a newcomer copies.

Copy this folder, rename `ideal` to your device in pyproject.toml, here and in the presets, and write your physics into
`program` (what is written is not what was asked for) and `age` (what was written does not stay).
"""

from torch import Tensor

from mho import Field, Nonideality, Site, hookimpl


class ExactDevice(Nonideality, kind="ideal.device"):
    """A device that holds exactly one of its levels, for ever: g = g_min + s round((g_target - g_min)/s),
    s = (g_max - g_min)/(levels - 1).

    With `levels: none` it holds any conductance. b-bit weights have 2^(b-1) levels per device, since the sign is kept
    by the pair (Rasch et al. 2023, Fig. 3D, the fixed-point yardstick): zero is a level, also where the idle device conducts
    g_min.
    """

    source = "definition"
    strength = None
    cellwise = True
    example = {"levels": 16}

    levels: int | None = Field(
        None,
        ge=2,
        unit="count",
        description="number of conductance levels, equally spaced from g_min to g_max",
        source="definition",
    )

    def program(self, g: Tensor, site: Site) -> Tensor:
        if self.levels is None:
            return g
        step = (site.g_max - site.g_min) / (self.levels - 1)
        return site.g_min + ((g - site.g_min) / step).round() * step


@hookimpl
def mho_nonidealities() -> list[type[Nonideality]]:
    return [ExactDevice]
