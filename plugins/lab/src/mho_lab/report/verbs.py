"""`mho report`: the page of a result folder, made again from what is in it."""

from pathlib import Path

import click

from mho_lab.options import Place, file


@click.command()
@click.argument("folder", type=Place(exists=True, file_okay=False))
@file("--out", "File [report.html in FOLDER].")
def report(folder: Path, out: Path | None) -> None:
    """Write the HTML report of a run, a sweep or a study: one file without scripts that loads nothing.

    FOLDER is what `mho run`, `mho sweep run` or a study has written; a sweep need not be complete.

    \b
    examples:
      mho report mho-runs/digits-pcm.standard-1a2b3c4d-s0
      mho report mho-runs/sweep-digits-pcm.standard-1a2b3c4d --out bits.html
    """
    from mho.ground import write_atomically
    from mho_lab.report.folders import report_of

    click.echo(write_atomically(out or folder / "report.html", report_of(folder)))
