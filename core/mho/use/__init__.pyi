"""Names for type checkers and, imported on first use, for `__init__.py`."""

from mho.use.calibration import calibrate as calibrate, run_batch as run_batch
from mho.use.checkpoint import load_model as load_model, save_model as save_model
from mho.use.chip import Chip as Chip, Time as Time, age as age, chip_on as chip_on, keeping_chip as keeping_chip
from mho.use.chip import keeping_modes as keeping_modes, load_chip as load_chip, matrices as matrices, program as program
from mho.use.chip import session_of as session_of, unprogram as unprogram
from mho.use.convert import ConversionReport as ConversionReport, NothingAnalogError as NothingAnalogError
from mho.use.convert import conversion_report as conversion_report
from mho.use.convert import keep_stored as keep_stored, to_analog as to_analog, to_digital as to_digital
from mho.use.evaluation import Evaluation as Evaluation, evaluate as evaluate, normalised_accuracy as normalised_accuracy
from mho.use.evaluation import one_chip as one_chip
from mho.use.matrix import Tile as Tile
from mho.use.metrics import mvm_error as mvm_error
from mho.use.training import Attached as Attached, attach as attach
