"""`mho cite`: whom to cite for exactly the parts that a hardware file uses."""

import click

from mho.config import Hardware, Kinded, load


@click.command()
@click.argument("hardware", metavar="HW")
@click.option("--set", "changes", multiple=True, metavar="PATH=VALUE", help="Change a value (repeatable).")
def cite(hardware: str, changes: tuple[str, ...]) -> None:
    """Print the BibTeX entries of exactly the parts that a hardware file or preset uses, each once.

    \b
    example:
      mho cite pcm.standard > references.bib
    """
    entries, silent = citations(load(hardware, set=changes))
    for entry, kinds in entries.items():
        click.echo(f"% {', '.join(kinds)}\n{entry}\n")
    for kind, source in silent.items():
        click.echo(f"% {kind}: {source}")


def citations(hardware: Hardware) -> tuple[dict[str, list[str]], dict[str, str]]:
    """BibTeX entry -> the kinds that rest on it; and kind -> source of those that give no entry."""
    entries: dict[str, list[str]] = {}
    silent: dict[str, str] = {}
    for part in used_parts(hardware):
        text, kind = str(getattr(part, "bibtex", "")).strip(), str(part.KIND)
        if not text and part.source:
            silent[kind] = part.source
        for entry in (f"@{e.strip()}" for e in f"\n{text}".split("\n@")[1:]):  # each from its @ to the next
            kinds = entries.setdefault(next((e for e in entries if _key(e) == _key(entry)), entry), [])
            kinds.extend([kind] if kind not in kinds else [])
    return entries, silent


def used_parts(hardware: Hardware) -> list[Kinded]:
    """Every part of every tile that is used, effects of strength 0 left out, and every training method."""
    parts: list[Kinded] = []
    for tile in hardware.tiles.values():
        parts += [part for _, part in tile if isinstance(part, Kinded)]
        parts += [e for e in tile.nonidealities if getattr(e, "active", True)]
    return [*parts, *hardware.training.all_methods.values()]


def _key(entry: str) -> str:
    """rasch2023 of @article{rasch2023, ..."""
    return entry.partition("{")[2].partition(",")[0].strip()
