"""The built documentation: no warning, nothing fetched from elsewhere, and a reference that leaves nothing out."""

import importlib.util
import inspect
import re
import subprocess
import sys
import tarfile
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

import mho
from mho.cli import VERBS, main
from mho.config import hooks, registry
from mho.config.schema import Strict
from mho.effects.nonideality import Nonideality

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@cache
def generator():
    """docs/generate_reference.py as a module."""
    spec = importlib.util.spec_from_file_location("generate_reference", DOCS / "generate_reference.py")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def distributions():
    return generator().DISTRIBUTIONS


@pytest.fixture(scope="module")
def reference():
    """Page name -> text, of what docs/generate_reference.py writes."""
    return {name: write() for name, write in generator().pages().items()}


def section(page, title, level="##"):
    """The part of a page under a heading."""
    _, heading, rest = f"\n{page}".partition(f"\n{level} {title}\n")
    assert heading, f"nothing under {title!r}"
    return re.split(rf"\n#{{1,{len(level)}}} ", rest)[0]


def test_every_kind_has_a_section_with_every_field(reference):
    registry.default().load_all()
    ours = [cls for kind, cls in registry.kinds().items() if kind.split(".")[0] in ("mho", "pcm", "rram", "circuit", "ideal")]
    assert len(ours) > 25
    for cls in ours:
        family = cls.KIND.partition(".")[0]
        level = "##" if family == "mho" else "###"
        text = section(reference["core" if family == "mho" else family], cls.KIND, level)
        for note in cls.notes():
            assert note.name == "kind" or f"| `{note.name}` |" in text, (cls.KIND, note.name)
        if issubclass(cls, Nonideality):
            assert f"strength: {cls.strength or 'none'}" in text and "acts at: " in text and "source: " in text


def test_every_kind_explains_itself_and_its_fields():
    registry.default().load_all()
    for kind, cls in registry.kinds().items():
        assert inspect.cleandoc(cls.__doc__ or ""), f"{kind} has no docstring"
        for note in cls.notes():
            assert note.description, f"{kind}: {note.name} has no description"
            assert note.name == "kind" or note.unit or note.accepts, f"{kind}: {note.name} has no unit"


def test_every_part_of_a_hardware_file_is_explained(reference):
    models = [
        m
        for m in vars(sys.modules["mho.config.hardware"]).values()
        if inspect.isclass(m) and issubclass(m, Strict) and m.__module__.startswith("mho.") and m.__doc__
    ]
    text = reference["hardware_file"]
    for model in models:
        if model.__name__ in ("Strict", "Kinded"):
            continue
        for note in model.notes():
            assert f"| `{note.name}` |" in text, (model.__name__, note.name)
            assert note.description, (model.__name__, note.name)


def test_every_preset_verb_hook_and_public_name_is_in_the_reference(reference):
    for name in registry.presets():
        assert "```yaml" in section(reference["presets"], name)
    pages = dict.fromkeys(VERBS, ("command_line", "##"))
    pages |= {verb: (d.folder, "###") for d in distributions() for verb in d.verbs}
    assert {"check", "run", "new"} <= set(pages)
    for verb, (page, level) in pages.items():
        command = main.get_command(None, verb)
        text = section(reference[page], f"mho {verb}", level)
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.opts[0] in text, (verb, parameter.name)
    for name in [n for n in vars(hooks) if n.startswith("mho_")]:
        assert "@hookimpl" in section(reference["hooks"], name)
    listed = re.findall(r"auto\w+:: mho\.(\w+)", reference["python"])
    assert sorted(listed) == sorted(mho.__all__)
    for d in distributions():
        for name in d.names:
            assert section(reference[d.folder], f"mho.{name}", "###")


@pytest.mark.parametrize("name", mho.__all__)
def test_every_public_name_has_a_docstring(name):
    assert inspect.getdoc(getattr(mho, name)), name


def test_every_option_of_every_verb_has_a_help():
    for verb in [*VERBS, *(v for d in distributions() for v in d.verbs)]:
        for parameter in main.get_command(None, verb).params:
            assert parameter.param_type_name == "argument" or parameter.help, f"mho {verb} {parameter.opts[0]}"


def test_every_page_is_in_the_contents():
    index = (DOCS / "index.md").read_text()
    entries = re.findall(r"^([\w/]+)$", "".join(re.findall(r"```\{toctree\}(.*?)```", index, re.S)), re.M)
    for page in DOCS.glob("*.md"):
        assert page.stem == "index" or page.stem in entries, f"{page.name} has no place in index.md"


def test_relative_links_of_every_page_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("plugins/*/README.md")]:
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.relative_to(ROOT)}: {link}"


def test_the_citation_file_is_valid_and_of_this_version():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cff)
    assert cff["cff-version"] == "1.2.0" and cff["type"] == "software"
    assert cff["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for author in [*cff["authors"], *cff["references"][0]["authors"]]:
        assert set(author) in ({"name"}, {"family-names", "given-names"})
    assert re.fullmatch(r"10\.\d{4,9}/\S+", cff["references"][0]["doi"])


def test_the_changelog_knows_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## (Unreleased|\[?{re.escape(mho.__version__)})", text, re.M)


def test_the_source_distribution_takes_the_project_files_along():
    include = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff"):
        assert name in include and (ROOT / name).is_file()


@pytest.mark.slow
def test_a_source_distribution_holds_them(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "core/mho/__init__.py"} <= names


def test_every_environment_variable_is_documented():
    files = [*(ROOT / "core").rglob("*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")]
    code = "".join(f.read_text(encoding="utf-8") for f in files)
    pages = "".join(f.read_text(encoding="utf-8") for f in DOCS.glob("*.md"))
    for name in set(re.findall(r"\"(MHO_[A-Z_]+)\"", code)):
        assert name in pages, name


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    pytest.importorskip("furo")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-E",
        "-d",
        tmp_path / "cache",
        DOCS,
        tmp_path / "html",
    ]
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "html").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=\"([^\"]+)\"", page.read_text(encoding="utf-8"))
        assert not [u for u in loaded if u.startswith(("http", "//"))], page.name
    styles = "".join(f.read_text(encoding="utf-8") for f in (tmp_path / "html" / "_static").rglob("*.css"))
    assert not re.search(r"url\(['\"]?(https?:)?//|@import", styles)
