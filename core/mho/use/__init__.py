"""What a user does with a network: convert, program, age, calibrate, train, evaluate, save."""

from mho.use.calibration import calibrate, run_batch
from mho.use.checkpoint import load_model, save_model
from mho.use.chip import (
    Chip,
    Time,
    age,
    chip_on,
    keeping_chip,
    keeping_modes,
    load_chip,
    matrices,
    program,
    session_of,
    unprogram,
)
from mho.use.convert import ConversionReport, conversion_report, keep_stored, to_analog, to_digital
from mho.use.evaluation import Evaluation, evaluate, normalised_accuracy, one_chip
from mho.use.matrix import Tile
from mho.use.metrics import mvm_error
from mho.use.training import Attached, attach
