"""Cells that cannot be switched: stuck in the high- or the low-resistance state."""

from mho_circuit.stuck import StuckAt

from mho import Field

CHEN = "Chen et al. 2015, as cited"


class RramStuckAt(StuckAt, kind="rram.stuck_at"):
    """Faulty cells: stuck off (high resistance) or stuck on (low resistance)."""

    source = "Chen et al. 2015, 4 Mb HfO2 macro, as commonly cited"
    off: float = Field(0.0904, ge=0, le=1, unit="1", description="share of cells stuck at the lowest conductance", source=CHEN)
    on: float = Field(0.0175, ge=0, le=1, unit="1", description="share of cells stuck at g_max", source=CHEN)
