"""mho: simulate analog in-memory computing hardware inside PyTorch, and train networks to survive it.

Everything public is a name of this package. Names load on first use, so that commands which need no torch stay fast; the
stub `__init__.pyi` lists them. Plugins add names through the entry-point group `mho.names`: `quantise = "mho_qat:quantise"`
is `mho.quantise`.
"""

from typing import Any

from mho.ground.offers import offers
from mho.ground.renames import Renamed, present

__version__ = "0.1.0"

# Former public names, which work for one more minor version: Renamed("convert", "to_analog", since="0.2").
RENAMED: tuple[Renamed, ...] = ()

_offered, __all__ = offers(__name__, __file__)


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        name = present(name, RENAMED)
    if name in __all__:
        return _offered(name)
    from mho.config import distributions

    return distributions.public_name(name)


def __dir__() -> list[str]:
    from mho.config import distributions

    return sorted([*globals(), *__all__, *distributions.entry_points(distributions.NAMES)])
