"""`mho new`: a complete plugin project from the templates beside this module."""

import keyword
import re
from importlib import resources
from pathlib import Path

import click

import mho
from mho.config import registry
from mho.ground import MhoError

# template -> where it goes in the project
FILES = {
    "pyproject.toml.in": "pyproject.toml",
    "README.md.in": "README.md",
    "LICENSE.in": "LICENSE",
    "module.py.in": "src/@MODULE@/__init__.py",
    "preset.yaml.in": "src/@MODULE@/presets/standard.yaml",
    "test_effects.py.in": "tests/test_effects.py",
    "ci.yml.in": ".github/workflows/tests.yml",
    "gitignore.in": ".gitignore",
}
RESERVED = ("mho", "digital", "none", "core", "plugins", "test", "tests")


@click.command()
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), default=Path("."), help="Folder for the project (default: here).")
def new(name: str, out: Path) -> None:
    """Write a complete plugin project for the device or circuit NAME: code, preset, README, tests, CI.

    \b
    example:
      mho new telegraph          # writes mho-telegraph/, with kinds telegraph.*
    """
    family = family_of(name)
    folder = out / f"mho-{family.replace('_', '-')}"
    write_project(family, folder)
    click.echo(f"wrote {folder}: {len(FILES)} files. Next:")
    click.echo(f'  pip install -e "{folder}[test]"\n  mho test {family}\n  mho check {family}.standard')


def family_of(name: str) -> str:
    """The family that a new plugin of this name has; mho-telegraph and telegraph are the same."""
    family = name.replace("-", "_").removeprefix("mho_")
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,29}", family) or keyword.iskeyword(family) or family.endswith("_"):
        raise MhoError(
            f"{name!r} cannot be a family: expected at most 30 lower-case letters, digits and '_', "
            "no Python keyword, e.g. 'telegraph'"
        )
    if family in RESERVED:
        raise MhoError(f"{family!r} is reserved; choose the name of your device or effect, e.g. 'telegraph'")
    owners = [str(p) for p in registry.providers() if p.family == family]
    if owners:
        raise MhoError(f"{family!r} is taken by {' and '.join(owners)}, which is installed; choose another name")
    return family


def write_project(family: str, folder: Path) -> None:
    """All files of the project; an existing folder is left alone."""
    words = {
        "FAMILY": family,
        "MODULE": f"mho_{family}",
        "DISTRIBUTION": f"mho-{family.replace('_', '-')}",
        "TITLE": family.replace("_", " ").capitalize(),
        "VERSION": ".".join(mho.__version__.split(".")[:2]),
    }
    try:
        folder.mkdir(parents=True)
        for template, target in FILES.items():
            path = folder / filled(target, words)
            path.parent.mkdir(parents=True, exist_ok=True)
            text = resources.files("mho_kit").joinpath("template", template).read_text(encoding="utf-8")
            path.write_text(filled(text, words), encoding="utf-8")
    except FileExistsError:
        raise MhoError(f"{folder} exists already; choose another name or another --out folder") from None
    except OSError as error:
        raise MhoError(f"cannot write {folder}: {error.strerror}") from None


def filled(text: str, words: dict[str, str]) -> str:
    """`text` with every @WORD@ replaced."""
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text
