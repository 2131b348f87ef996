"""Makes `import layer_cases` work for the tests of this folder, which pytest imports one by one."""

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location("layer_cases", Path(__file__).with_name("cases.py"))
sys.modules["layer_cases"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules["layer_cases"])
