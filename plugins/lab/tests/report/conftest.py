"""Makes `import report_page` work for the tests of this folder, which pytest imports one by one."""

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location("report_page", Path(__file__).with_name("page.py"))
sys.modules["report_page"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules["report_page"])
