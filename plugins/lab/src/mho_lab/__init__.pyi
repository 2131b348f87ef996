"""What plugins build on: `__init__.py` reads the names here and imports each on first use."""

from mho_lab import fit as fit, report as report, sweep as sweep
from mho_lab.footprint.counting import first_sample as first_sample, tile_uses as tile_uses
from mho_lab.measure.statistics import Effort as Effort, Threshold as Threshold, threshold as threshold
from mho_lab.options import command_line as command_line
from mho_lab.run.task import Score as Score, Task as Task
from mho_lab.studies.rounds import search as search
from mho_lab.studies.shown import Page as Page, Part as Part
from mho_lab.studies.study import Study as Study, study_options as study_options
from mho_lab.studies.subject import Subject as Subject, network as network, scores as scores, task_of as task_of
