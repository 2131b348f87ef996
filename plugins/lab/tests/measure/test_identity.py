"""What makes results stale: the code that a task consists of, wherever beside it that code lies."""

import sys

import pytest
from mho_lab.run.task import load_task

TASK = """
import mho
{imports}

class Mine(mho.Task):
    def model(self):
        import stale_lazy
        return None
    def train_batches(self, seed):
        return []
    def score(self, model):
        return 0.5
"""
HELPERS = {
    "stale_net.py": "WIDTH = 8\n",
    "stale_lazy.py": "import stale_deep\n",
    "stale_deep.py": "import math\n",
    "stale_package/__init__.py": "",
    "stale_package/data.py": "from .more import N\n",
    "stale_package/more.py": "N = 3\n",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in HELPERS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    imports = "from stale_net import WIDTH\nfrom stale_package import data\nimport torch"
    (tmp_path / "mine.py").write_text(TASK.format(imports=imports))
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.startswith("stale_")]:
        monkeypatch.delitem(sys.modules, name)  # those of the last test
    return tmp_path


@pytest.mark.parametrize("name", HELPERS)
def test_a_fingerprint_knows_every_module_beside_the_task_that_it_imports(folder, name):
    task = load_task(folder / "mine.py")
    before = task.fingerprint()
    (folder / name).write_text(HELPERS[name] + "# edited\n")
    assert task.fingerprint() != before


def test_a_fingerprint_knows_nothing_else(folder):
    """Another file beside the task, one that was loaded by somebody else, or a package installed under its folder."""
    task = load_task(folder / "mine.py")
    before = task.fingerprint()
    (folder / "test_mine.py").write_text("import mine\n")
    (folder / "lib" / "site-packages").mkdir(parents=True)
    assert task.fingerprint() == before
    import torch.nn.functional  # noqa: F401 (torch is loaded, and is not of the user)

    assert task.fingerprint() == before


def test_a_task_without_helpers_is_its_file_and_its_data_version(tmp_path):
    """Independent of mho.stale: the sha256 of the text and the version."""
    import hashlib

    (tmp_path / "alone.py").write_text(TASK.format(imports="").replace("        import stale_lazy\n", ""))
    task = load_task(tmp_path / "alone.py")
    want = hashlib.sha256((tmp_path / "alone.py").read_bytes() + b"1").hexdigest()[:16]
    assert task.fingerprint() == want
