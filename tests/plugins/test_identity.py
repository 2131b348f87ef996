"""What results say about the plugins that they were made with."""

import hashlib
import textwrap

import pytest

from mho.config import Hardware, registry

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


USES = "mho: 1\ndefault: t\ntiles:\n  t: {nonidealities: [KIND]}\n"


def test_results_know_the_files_of_the_plugins_that_the_hardware_names_and_no_others(file):
    """Installed ones by the modules of their kinds, files with what they import; the rest may come, go and change."""
    from mho_lab.measure.identity import differences, identity

    used = file("used_fade.py", "import fade_depth\n" + GOOD)
    file("fade_depth.py", "K = 1\n")
    other = file("other_fade.py", GOOD.replace("verbs.", "other."))

    def of(kind):
        return identity(hardware=Hardware.from_yaml(USES.replace("KIND", kind)))

    with registry.using(registry.Registry()):
        registry.load_file(used)
        before = of("verbs.fade")
        assert before["code"].keys() == {"used_fade.py", "fade_depth.py"}
        registry.load_file(other)
        other.write_text(other.read_text() + "# edited\n")
        assert of("verbs.fade") == before and "mho-pcm" not in before["versions"]
        file("fade_depth.py", "K = 2\n")
        assert differences(before, of("verbs.fade")) == ["fade_depth.py has changed"]
        drift = of("pcm.drift")["code"]
        assert "mho_pcm/rasch.py" in drift and not any(name.startswith(("mho_rram", "used_fade")) for name in drift)


def test_results_know_training_methods_and_kinds_that_stand_as_names():
    from mho_lab.measure.identity import identity

    text = USES.replace("KIND", "pcm.drift") + "training: {quantise: {weights: qat.uniform}}\n"
    assert "mho_qat/quantiser.py" in identity(hardware=Hardware.from_yaml(text))["code"]
