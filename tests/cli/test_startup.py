"""What looks things up does not wait for torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

CORE_ONLY = """\
mho: 1
default: t
tiles:
  t:
    mapping: mho.tile_max
    dac: {bits: 8}
    adc: {bits: 8}
    compensation: mho.least_squares_drift
training: {backward: {mode: surrogate, surrogate: mho.saturating}}
"""


def ran(code: str, *args: str) -> str:
    result = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("args", [["check"], ["show"], ["cite"]])
def test_files_of_core_parts_are_read_without_torch(args, tmp_path):
    """`show` of a file asks what this processor can, so only of a kind."""
    (tmp_path / "hw.yaml").write_text(CORE_ONLY)
    what = "mho.dac" if args == ["show"] else str(tmp_path / "hw.yaml")
    ran(
        "import sys; from mho.cli import main; main(sys.argv[1:], standalone_mode=False)\n"
        "sys.exit('torch._C' in sys.modules or 'numpy' in sys.modules)",
        *args,
        what,
    )


def test_torch_is_itself_once_it_is_used():
    text = ran(
        "import sys, types, inspect, mho.cli, torch\n"
        "[inspect.getmodule(f.frame) for f in inspect.stack()]\n"
        "assert 'torch._C' not in sys.modules and torch.__name__ == 'torch'\n"
        "import torch.nn.functional as F\n"
        "assert type(torch) is types.ModuleType and torch is sys.modules['torch']\n"
        "print(F.relu(torch.tensor([-1.0, 2.0])).tolist(), torch.__version__ == torch.version.__version__)"
    )
    assert text == "[0.0, 2.0] True\n"
