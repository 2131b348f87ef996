"""Callbacks, models and the modules that need other packages: `__init__.py` imports each of these names on first use."""

from mho_transformers import huggingface as huggingface, language as language, lightning as lightning
from mho_transformers.drift import DriftScore as DriftScore
from mho_transformers.huggingface import AnalogCallback as AnalogCallback
from mho_transformers.language import own_text as own_text
