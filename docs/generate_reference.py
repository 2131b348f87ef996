"""Write the reference pages, docs/reference/*.md, from schemas, signatures and `--help` when the documentation is built.

A Sphinx extension; `python docs/generate_reference.py FOLDER` writes the same pages without Sphinx. The folder is not
under version control: what is not in the code cannot be in the reference.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import tomllib
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pydantic
from pydantic_core import PydanticUndefined

import mho
from mho.cli import VERBS, main
from mho.cli.config import explain_kind, plan_rows
from mho.config import hardware, hooks, registry
from mho.config.schema import Kinded, Strict
from mho.config.units import format_seconds
from mho.effects.nonideality import Nonideality

PARTS = (r"\b(keys|dict)\b", "keys below")
DOCS = Path(__file__).parent
ROOT = DOCS.parent
PLUGINS = ROOT / "plugins"

# Pages of the repository -> where the site has them.
PLACES = {
    ROOT / "README.md": DOCS / "index.md",
    ROOT / "CHANGELOG.md": DOCS / "reference" / "changelog.md",
    ROOT / "CONTRIBUTING.md": DOCS / "reference" / "contributing.md",
    **{PLUGINS / f.parent.name / "README.md": DOCS / "reference" / f"{f.parent.name}.md" for f in PLUGINS.glob("*/README.md")},
}
LINK = re.compile(r"\[([^\[\]]*)\]\(([\w./-]+)(#[\w-]+)?\)")

# Where the public names of the core stand, by the module that they come from; the longest beginning counts.
TOPICS = {
    "Hardware": ("mho.config",),
    "Networks on tiles": ("mho.use.convert", "mho.layers"),
    "Training": ("mho.use", "mho.config.recipe", "mho.effects.surrogate"),
    "Chips and accuracy": ("mho.use.chip", "mho.use.evaluation", "mho.use.checkpoint"),
    "One matrix": ("mho.use.matrix", "mho.tile"),
    "Writing a plugin": (
        "mho.effects",
        "mho.config.registry",
        "mho.config.hooks",
        "mho.config.schema",
        "mho.ground.renames",
        "pluggy",
    ),
    "Errors": ("mho.ground",),
}


@dataclass(frozen=True)
class Distribution:
    """One of plugins/: what its pyproject.toml says."""

    folder: str
    name: str
    families: tuple[str, ...]
    verbs: tuple[str, ...]
    names: dict[str, str]  # public name -> module:attribute

    @classmethod
    def of(cls, pyproject: Path) -> Distribution:
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        groups = project.get("entry-points", {})
        families, verbs, names = (groups.get(group, {}) for group in ("mho", "mho.commands", "mho.names"))
        return cls(pyproject.parent.name, project["name"], tuple(families), tuple(verbs), names)


DISTRIBUTIONS = [Distribution.of(file) for file in sorted(PLUGINS.glob("*/pyproject.toml"))]


# --- Markdown ---


def cell(text: str) -> str:
    """Text that stays what it is inside a table."""
    return re.sub(r"([|*<>\\])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def md_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table without its empty columns."""
    body = [list(row) for row in rows]
    kept = [i for i in range(len(head)) if any(row[i] for row in body)]
    lines = [[head[i] for i in kept], ["---"] * len(kept), *([row[i] for i in kept] for row in body)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def prose(doc: str) -> str:
    """A docstring as Markdown: paragraphs as they are; columns and indented text keep their layout."""
    parts = re.split(r"\n\s*\n", inspect.cleandoc(doc))
    return "\n\n".join(f"```text\n{p}\n```" if has_layout(p) else re.sub(r"([*<])", r"\\\1", p) for p in parts)


def has_layout(paragraph: str) -> bool:
    """Whether spaces mean something: columns, or lines that are indented."""
    return any(line.startswith((" ", ">>>")) or "   " in line.strip() for line in paragraph.splitlines())


# --- kinds ---


def field_table(fields: Iterable[dict[str, Any]]) -> str:
    rows = [
        (
            code(f["name"]),
            "required" if f["required"] else code(str(f["default"])),
            f["unit"] if f["unit"] not in ("1", "") else "",
            cell(f["accepts"]),
            cell(f["description"]),
            cell(f["source"]),
        )
        for f in fields
    ]
    return md_table(("field", "default", "unit", "accepts", "meaning", "source"), rows)


def kind_section(cls: type[Kinded], level: str = "##") -> str:
    """One kind: what it is, how it acts, and every field."""
    about = [("category", cls.CATEGORY), ("source", cls.source)]
    if issubclass(cls, Nonideality):
        about[1:1] = [("acts at", ", ".join(cls.stages())), ("strength", cls.strength or "none")]
    facts = "\n".join(f"- {name}: {cell(text)}" for name, text in about if text)
    fields = [f for f in explain_kind(cls)["fields"] if f["name"] != "kind"]
    return f"{level} {cls.KIND}\n\n{prose(cls.__doc__ or '')}\n\n{facts}\n\n{field_table(fields) if fields else 'No fields.'}\n"


def distribution_page(of: Distribution) -> str:
    """Its README, and then everything that it brings: kinds with every field, verbs, Python."""
    parts = [page_of(PLUGINS / of.folder / "README.md")]
    kinds = [cls for kind, cls in registry.kinds().items() if kind.partition(".")[0] in of.families]
    if kinds:
        parts += ["## Every field\n", *(kind_section(cls, "###") for cls in kinds)]
    if of.verbs:
        parts += ["## Commands\n", *verb_sections(of.verbs, "###")]
    if of.names:
        parts += [f"## Python\n\nNames that {of.name} adds to `mho`.\n", *map(name_section, *zip(*of.names.items()))]
    return "\n".join(parts)


def name_section(name: str, place: str) -> str:
    """One public name: a function, a class, or a module with what it offers."""
    module, _, attribute = place.partition(":")
    try:
        value = importlib.import_module(module)
    except mho.MhoError as error:  # it needs a package that is not a dependency
        return f"### mho.{name}\n\n{error}\n"
    if attribute:
        return f"### mho.{name}\n\n{rst(directive(f'{module}.{attribute}', getattr(value, attribute)))}\n"
    listed = [directive(f"{module}.{n}", getattr(value, n)) for n in getattr(value, "__all__", ())]
    return f"### mho.{name}\n\n{prose(value.__doc__ or '')}\n\n{rst(*listed)}\n"


def rst(*directives: str) -> str:
    listed = "\n\n".join(directives)
    return f"```{{eval-rst}}\n{listed}\n```" if directives else ""


def page_of(file: Path) -> str:
    """A page of the repository as a page of the reference."""
    return on_site(file.read_text(encoding="utf-8"), file.parent, DOCS / "reference")


def on_site(text: str, written_in: Path, shown_in: Path) -> str:
    """Text whose links to pages of the repository lead to pages of the site; links to other files become plain text."""

    def link(match: re.Match[str]) -> str:
        words, target, anchor = match[1], (written_in / match[2]).resolve(), match[3] or ""
        place = target if target.is_relative_to(DOCS) else PLACES.get(target)
        return f"[{words}]({os.path.relpath(place, shown_in)}{anchor})" if place else words

    return LINK.sub(link, text)


def core_page() -> str:
    """Mappings, converters and compensations of the core."""
    kinds = [cls for kind, cls in registry.kinds().items() if kind.startswith("mho.")]
    text = "What mho itself provides, such as mappings, converters and compensations. Plugins may bring others."
    return f"# Parts of the core\n\n{text}\n\n" + "\n".join(kind_section(cls) for cls in kinds)


# --- presets, file format, command line, hooks, Python ---


def presets_page() -> str:
    parts = ["# Presets\n\nComplete hardware files that plugins ship. `mho init NAME my.yaml` copies one.\n"]
    return "\n".join(parts + [preset_section(name) for name in registry.presets()])


def preset_section(name: str) -> str:
    """What a preset is, its text, and its plan in the order of the physics."""
    loaded, text = mho.load(name), registry.preset_path(name).read_text(encoding="utf-8")
    plans = [f"Plan of `tiles.{tile}`:\n\n{plan_table(spec)}\n" for tile, spec in loaded.tiles.items()]
    return f"## {name}\n\n{loaded.description}\n\n" + "\n".join(plans) + f"\n```yaml\n{text.rstrip()}\n```\n"


def plan_table(tile: hardware.TileSpec) -> str:
    return md_table(("stage", "part", "what it does"), [(s, code(kind), cell(w)) for s, kind, w in plan_rows(tile)])


def format_page() -> str:
    """Every key of a hardware file that is not part of a kind."""
    parts = [
        "# Keys of a hardware file\n\n[Hardware files](../hardware.md) explains how they work together. "
        "A preset or file is inherited with `like:`, at the top or in a tile; see there.\n"
    ]
    parts += [section(path or "The file", model) for path, model in sections(hardware.Hardware)]
    return "\n".join(parts)


def sections(model: type[Strict], path: str = "") -> Iterator[tuple[str, type[Strict]]]:
    """A model and the models in its fields, each with its path in the file: `tiles.NAME.device`, `layers[i]`, ..."""
    yield path, model
    for name, info in model.model_fields.items():
        for inner, place in models_in(info.annotation):
            yield from sections(inner, f"{path}.{name}".lstrip(".") + place)


def models_in(annotation: Any, place: str = "") -> Iterator[tuple[type[Strict], str]]:
    """The models in a type, kinds left out, with what stands behind the key: `.NAME` in a mapping, `[i]` in a list."""
    if inspect.isclass(annotation) and issubclass(annotation, Strict) and not issubclass(annotation, Kinded):
        yield annotation, place
    place = {dict: ".NAME", tuple: "[i]"}.get(typing.get_origin(annotation), place)  # type: ignore[arg-type]
    for part in typing.get_args(annotation):
        yield from models_in(part, place)


def section(title: str, model: type[Strict]) -> str:
    """One part of the file: what it is, and its keys."""
    fields = [
        {
            "name": n.name,
            "required": n.default is PydanticUndefined,
            "default": default_text(n.default, n.unit),
            "unit": n.unit,
            "accepts": re.sub(*PARTS, n.accepts),
            "description": n.description,
            "source": n.source,
        }
        for n in model.notes()
    ]
    return f"## {title}\n\n{prose(model.__doc__ or '')}\n\n{field_table(fields)}\n"


def default_text(value: Any, unit: str = "") -> str:
    """A default in the words of YAML; sections are explained below their table, and so not repeated."""
    if isinstance(value, Kinded):
        return str(value.KIND)
    if isinstance(value, Strict):
        return "see below"
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return "[" + ", ".join(default_text(v, unit) for v in value) + "]"
    if isinstance(value, float) and unit == "s":
        return format_seconds(value)
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def cli_page() -> str:
    """`--help` of every verb of the core, and where those of the other distributions are."""
    others = [(f"`mho {v}`", f"[{d.name}]({d.folder}.md#mho-{v})") for d in DISTRIBUTIONS for v in d.verbs]
    parts = [
        "# Command line\n\nEvery verb answers `--help` with the text below. HW is a hardware file or a preset. Exit codes: "
        "0 done, 1 the input is wrong (the message says where), 2 the command is used wrongly.\n",
        f"{md_table(('verb', 'comes with'), [*((f'`mho {v}`', 'mho') for v in VERBS), *others])}\n",
        f"## mho\n\n{help_block(main, None)}\n",
    ]
    return "\n".join(parts + verb_sections(VERBS))


def verb_sections(verbs: Iterable[str], level: str = "##") -> list[str]:
    found = []
    with click.Context(main, info_name="mho") as top:
        for verb in verbs:
            command = main.get_command(top, verb)
            assert command is not None
            found.append(f"{level} mho {verb}\n\n{help_block(command, top, verb)}\n")
    return found


def help_block(command: click.Command, parent: click.Context | None, name: str = "mho") -> str:
    context = click.Context(command, info_name=name, parent=parent, terminal_width=100, max_content_width=100)
    return f"```text\n{command.get_help(context)}\n```"


def hooks_page() -> str:
    """Every hook with the runnable example of its docstring."""
    parts = [f"# Hooks\n\n{prose(hooks.__doc__ or '')}\n"]
    for name in [n for n in vars(hooks) if n.startswith("mho_")]:
        about, _, example = inspect.cleandoc(getattr(hooks, name).__doc__ or "").partition("Example:")
        parts.append(f"## {name}\n\n{prose(about)}\n\n```python\n{inspect.cleandoc(example)}\n```\n")
    return "\n".join(parts)


def python_page() -> str:
    """Every public name of the core, for autodoc."""
    others = [(code(f"mho.{n}"), f"[{d.name}]({d.folder}.md#python)") for d in DISTRIBUTIONS for n in d.names]
    text = (
        "Every public name is a name of the package `mho`: `import mho`, then `mho.to_analog`. Names load on first use. "
        "Plugins add names of their own."
    )
    parts = [f"# Python\n\n{text}\n\n{md_table(('name', 'comes with'), others)}\n"]
    for topic, names in python_topics().items():
        parts.append(f"## {topic}\n\n{rst('.. currentmodule:: mho', *(directive(f'mho.{n}', getattr(mho, n)) for n in names))}\n")
    return "\n".join(parts)


def python_topics() -> dict[str, list[str]]:
    """Topic -> public names; together they are all of `mho.__all__`."""
    topic_of = {module: topic for topic, modules in TOPICS.items() for module in modules}
    found: dict[str, list[str]] = {topic: [] for topic in TOPICS}
    for name in mho.__all__:
        home = getattr(mho, name).__module__
        found[topic_of[max((m for m in topic_of if home.startswith(m)), key=len)]].append(name)
    return found


def directive(path: str, value: Any) -> str:
    """The autodoc directive of something public."""
    if inspect.isclass(value):
        return f".. autoclass:: {path}\n   :members:"
    return f".. autofunction:: {path}" if inspect.isfunction(value) else f".. autodata:: {path}"


# --- all of them ---


def pages() -> dict[str, Callable[[], str]]:
    """File name without ending -> what writes its text. Plugins of this repository only: others have pages of their own."""
    failed = [p for p in registry.default().load_all() if p.state in ("failed", "conflict")]
    if failed:
        raise RuntimeError("; ".join(f"{p.family}: {p.reason}" for p in failed))
    found: dict[str, Callable[[], str]] = {"hardware_file": format_page, "core": core_page}
    for one in DISTRIBUTIONS:
        found[one.folder] = lambda one=one: distribution_page(one)
    found |= {"presets": presets_page, "command_line": cli_page, "python": python_page, "hooks": hooks_page}
    return found | {name: lambda name=name: page_of(ROOT / f"{name.upper()}.md") for name in ("changelog", "contributing")}


def write_all(folder: Path) -> None:
    """Write every page; one that has not changed is left alone, so that Sphinx need not read it again."""
    folder.mkdir(parents=True, exist_ok=True)
    made = pages()
    texts = {name: write() for name, write in made.items()}
    for old in folder.glob("*.md"):
        if old.stem not in texts:
            old.unlink()
    for name, text in texts.items():
        file = folder / f"{name}.md"
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


# --- Sphinx ---


def plain_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code`; give Sphinx reStructuredText that shows the same."""
    if name.endswith("mho.hookimpl"):
        lines[:] = ["Marks a function of a plugin as a hook."]
    parts = re.split(r"\n\s*\n", "\n".join(lines).strip())
    text = "\n\n".join(literal(p) if has_layout(p) else escaped(p) for p in parts if p)
    lines[:] = [*text.splitlines(), ""]


def literal(paragraph: str) -> str:
    return ".. code-block:: text\n\n" + "\n".join(f"   {line}" for line in paragraph.splitlines())


def escaped(paragraph: str) -> str:
    """Code in backquotes stays code; nothing else is markup."""
    parts = re.split(r"`+([^`]+)`+", paragraph)
    return "".join(f"``{p}``" if i % 2 else re.sub(r"([*_|:\\])", r"\\\1", p) for i, p in enumerate(parts))


def short_signature(app: Any, what: str, name: str, obj: Any, options: Any, signature: str, returns: str) -> Any:
    """Models are made from YAML: their long constructors say nothing."""
    if inspect.isclass(obj) and issubclass(obj, pydantic.BaseModel):
        return "", None
    return signature, returns


def skipped(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """What pydantic adds to every model is not ours."""
    return True if name.startswith("model_") else None


def site_links(app: Any, name: str, source: list[str]) -> None:
    """The links of a page under docs/ that lead out of it."""
    page = DOCS / f"{name}.md"
    source[0] = on_site(source[0], page.parent, page.parent)


def setup(app: Any) -> dict[str, Any]:
    app.connect("builder-inited", lambda app: write_all(Path(app.srcdir) / "reference"))
    app.connect("source-read", site_links)
    app.connect("autodoc-process-docstring", plain_docstring)
    app.connect("autodoc-process-signature", short_signature)
    app.connect("autodoc-skip-member", skipped)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
