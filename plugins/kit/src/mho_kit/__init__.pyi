"""The names of the kit: `__init__.py` reads them here and imports each on first use."""

from mho_kit.bench import Bench as Bench, Witness as Witness
from mho_kit.calibrations import CalibrationContract as CalibrationContract
from mho_kit.columns import ColumnContract as ColumnContract
from mho_kit.compensations import CompensationContract as CompensationContract
from mho_kit.converters import ConverterContract as ConverterContract
from mho_kit.corrections import CorrectionContract as CorrectionContract
from mho_kit.effects import NonidealityContract as NonidealityContract
from mho_kit.layers import LayerContract as LayerContract
from mho_kit.mappings import MappingContract as MappingContract
from mho_kit.outcomes import Outcome as Outcome, contract_of as contract_of, run as run
from mho_kit.pages import PageContract as PageContract
from mho_kit.quantisers import QuantiserContract as QuantiserContract
from mho_kit.surrogates import SurrogateContract as SurrogateContract
from mho_kit.tasks import TaskContract as TaskContract
from mho_kit.training import TrainingContract as TrainingContract
