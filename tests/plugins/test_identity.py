"""What results say about the plugins that they were made with."""

import hashlib
import textwrap

import pytest

from mho.config import registry

GOOD = '''
from mho import Field, Nonideality, hookimpl

class Fade(Nonideality, kind="verbs.fade"):
    """Every weight is read 10 % too small."""

    source = "an example"
    bibtex = "@misc{fade, title = {Fading}}"
    depth: float = Field(0.1, ge=0, lt=1, unit="1", description="relative loss")
    strength = "depth"

    def read(self, w, site):
        return w * (1 - self.depth)

class Fade2(Fade, kind="verbs.fade2"):
    """The same with another name, cited once."""

@hookimpl
def mho_nonidealities():
    return [Fade, Fade2]
'''


@pytest.fixture
def file(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write


def test_the_hardware_of_a_result_names_every_plugin_with_its_version(file):
    from mho_lab.measure.identity import versions

    path = file("versioned_fade.py", GOOD)
    with registry.using(registry.Registry()):
        registry.load_file(path)
        found = versions()
    assert found["versioned_fade.py"] == hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert {"mho", "mho-pcm", "mho-circuit", "torch", "python"} <= found.keys()
