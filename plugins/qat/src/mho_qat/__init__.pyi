"""Methods, and what serves digital networks too: `__init__.py` reads the names here and imports each on first use."""

from mho_qat.distillation import distillation_loss as distillation_loss
from mho_qat.methods import Distill as Distill, Noise as Noise, Schedule as Schedule, follow as follow
from mho_qat.preactivation import CLOSED as CLOSED, Mode as Mode, PreactivationNoise as PreactivationNoise
from mho_qat.preactivation import noisy_modules as noisy_modules
from mho_qat.quantiser import Quantise as Quantise, Uniform as Uniform, quantise as quantise, unquantise as unquantise
