"""Wheels of core and plugins, and environments in which exactly some of them are installed. Nothing is downloaded."""

import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("fast", "ideal", "pcm", "rram", "circuit", "qat", "digital", "lab", "kit", "transformers", "cost", "exchange")
FOLDERS = {"mho": ROOT, **{f"mho-{n}": ROOT / "plugins" / n for n in OURS}}
OFFLINE = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]


def pip(*args):
    done = subprocess.run([sys.executable, "-m", "pip", *map(str, args)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


class Environment:
    """A folder of installed distributions beside the third-party packages of this Python, without any other mho."""

    def __init__(self, site, third_party):
        self.site, self.third_party = site, third_party

    def install(self, *wheels):
        pip("install", *OFFLINE, "--target", self.site, *wheels)

    def editable(self, folder):
        pip("install", *OFFLINE, "--target", self.site, "--editable", folder)

    def run(self, code, *args, cwd=None):
        """Run Python code; .pth files of the environment count, those of this Python do not."""
        start = f"import site; site.addsitedir({str(self.site)!r})"
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MHO"))}
        env |= {"PYTHONPATH": os.pathsep.join([str(self.site), str(self.third_party)]), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-S", "-c", f"{start}\n{code}", *map(str, args)]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=env, cwd=cwd or self.site)

    def mho(self, *args, cwd=None):
        return self.run("from mho.cli import main; main(prog_name='mho')", *args, cwd=cwd)

    def pytest(self, *args, cwd):
        return self.run("import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))", *args, cwd=cwd)


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """build(folder) -> wheel, each folder once."""
    out, built = tmp_path_factory.mktemp("wheels"), {}

    def build(folder):
        if folder not in built:
            target = out / str(len(built))
            pip("wheel", *OFFLINE, "--wheel-dir", target, folder)
            (built[folder],) = target.glob("*.whl")
        return built[folder]

    return build


@pytest.fixture(scope="session")
def third_party(tmp_path_factory):
    """Links to everything installed for this Python except mho and its plugins."""
    folder = tmp_path_factory.mktemp("third-party")
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not entry.name.startswith(("mho", "_editable_impl_mho")) and entry.suffix != ".pth":
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture
def environment(tmp_path, third_party, build):
    """environment("mho", "mho-pcm") -> an Environment with these distributions and what they depend on."""

    def make(*names, plain=()):
        site = tmp_path / f"site-{len(list(tmp_path.glob('site-*')))}"
        site.mkdir()
        made = Environment(site, third_party)
        made.install(*(build(FOLDERS[n]) for n in with_dependencies(names)), *plain)
        return made

    return make


def with_dependencies(names):
    """Ours among the dependencies of these distributions, and themselves."""
    found = {}
    for name in names:
        for need in tomllib.loads((FOLDERS[name] / "pyproject.toml").read_text())["project"]["dependencies"]:
            if need.partition(">")[0] in FOLDERS:
                found |= dict.fromkeys(with_dependencies([need.partition(">")[0]]))
        found[name] = None
    return list(found)
