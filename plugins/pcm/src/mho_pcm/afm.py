"""Programming noise of the analog foundation models: the law that language models were adapted to and tested with.

Law and numbers: Büchel et al. 2025 (AFM), as published with their code: two cubic fits in units of 1/180 of the largest weight
of a row. They describe weights as they are used; nothing ages.
"""

import torch
from torch import Tensor

from mho import Field, Nonideality, Site
from mho_pcm.hermes import polynomial

AFM = "Büchel et al. 2025 (AFM)"
LEVELS = 180.0  # of the largest weight, in units of the fits
EDGE = 52.5  # level at which the two fits meet
LOW = (2.5797410660159494, 0.22419685954327148, -0.00371581208142707, 2.939751381126213e-5)
HIGH = (2.110295720240385, 0.2453487119885723, -0.003054993405157235, 1.2329755395573392e-5)


class AfmProgrammingNoise(Nonideality, kind="pcm.afm_programming_noise"):
    """A weight misses its target by a Gaussian: w + sigma(v)/180 xi, v = 180 |w| in units of the largest weight.

    sigma(v) = 2.5797 + 0.22420 v - 3.7158e-3 v^2 + 2.9398e-5 v^3 for v <= 52.5, 2.1103 + 0.24535 v - 3.0550e-3 v^2 +
    1.2330e-5 v^3 above; weights below v = 0.6 are 0 exactly. With `pair: both` and g_min = 0 the sign of a small weight may
    change, as in the source; with one active device its conductance stops at 0.
    """

    source = AFM
    bibtex = """@inproceedings{buechel2025afm,
  author    = {B{\\"u}chel, Julian and others},
  title     = {Analog foundation models},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2025},
  note      = {arXiv:2505.09663},
}"""
    cellwise = True

    dead: float = Field(0.6, ge=0, unit="1", description="weights below this level, of 180, are 0 exactly", source=AFM)

    def program(self, g: Tensor, site: Site) -> Tensor:
        active = site.target[:1] if len(g) == 1 else site.target.amax(0, keepdim=True)
        v = LEVELS * active / site.g_max
        error = self.sigma(v) * (site.g_max / LEVELS) * site.randn_like(active)
        if len(g) == 1:
            return torch.where(v < self.dead, torch.zeros_like(g), g + error)
        w = torch.where(v < self.dead, torch.zeros_like(v), g[:1] - g[1:] + error)  # what is negative is the other device
        return torch.cat([w.relu(), (-w).relu()])

    def sigma(self, v: Tensor) -> Tensor:
        """Width of the error of a weight at level v, in levels."""
        return torch.where(v <= EDGE, polynomial(LOW, v), polynomial(HIGH, v))
