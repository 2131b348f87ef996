"""The `mho` command. Verbs are imported when they are called, so that looking things up stays fast."""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from typing import Any

import click

from mho.errors import MhoError

# verb -> where its command is, and what `mho --help` says about it
VERBS = {
    "run": ("mho.cli.run:run", "Train and deploy a task on analog hardware: the main job, with a report."),
    "train": ("mho.cli.run:train", "Train a task for analog hardware."),
    "evaluate": ("mho.cli.run:evaluate", "Program a trained network on many chips and follow it over time."),
    "footprint": ("mho.cli.footprint:footprint", "Tiles, utilisation and MVMs that a network needs."),
    "mvm": ("mho.cli.mvm:mvm", "Standard error of a matrix-vector product, and which effect causes it."),
    "fit": ("mho.cli.fit:fit", "Fit an effect to a table of measurements: parameters, error bars, a verdict."),
    "check": ("mho.cli.config:check", "Say everything that is wrong with hardware files."),
    "show": ("mho.cli.config:show", "Explain every field of a kind, a preset or a hardware file."),
    "init": ("mho.cli.config:init", "Copy a preset into a file of your own."),
    "cite": ("mho.cli.cite:cite", "Print the BibTeX entries of the effects that a hardware file uses."),
    "schema": ("mho.cli.config:schema", "Print a JSON schema of hardware files, for completion in editors."),
    "plugins": ("mho.cli.plugins:plugins", "List installed plugins, their kinds and presets."),
    "new": ("mho.cli.new:new", "Write a complete plugin project, with tests."),
    "test": ("mho.cli.test:test", "Run the conformance kit on every effect of a plugin."),
    "doctor": ("mho.cli.plugins:doctor", "Load every plugin and preset, and say what is broken."),
}


Resolved = tuple[str | None, click.Command | None, list[str]]


class LazyGroup(click.Group):
    """Commands from the table above and from the entry-point group `mho.commands`, imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*VERBS, *sorted(n for n in _plugin_verbs() if n not in VERBS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in VERBS:
            module, _, attribute = VERBS[cmd_name][0].partition(":")
            return getattr(importlib.import_module(module), attribute)
        point = _plugin_verbs().get(cmd_name)
        if point is None:
            return None
        try:
            return point.load()
        except Exception as error:
            raise MhoError(f"verb {cmd_name!r} of {_owner(point)} cannot be used: {error!r}") from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help of all verbs, without importing them."""
        rows = [(verb, text) for verb, (_, text) in VERBS.items()]
        rows += [(n, f"From {_owner(p)}.") for n, p in sorted(_plugin_verbs().items()) if n not in VERBS]
        with formatter.section("Verbs"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; the user's mistakes end with one message and exit code 1."""
        try:
            return super().invoke(ctx)
        except MhoError as error:
            click.echo(str(error), err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(130)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb, or a usage error with a suggestion."""
        from mho.schema import suggest

        if args and args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            ctx.fail(f"no verb {args[0]!r}; {suggest(args[0], self.list_commands(ctx), 'verbs')}")
        return super().resolve_command(ctx, args)


def _plugin_verbs() -> dict[str, importlib.metadata.EntryPoint]:
    return {p.name: p for p in importlib.metadata.entry_points(group="mho.commands")}


def _owner(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--plugin", "files", multiple=True, metavar="FILE", help="Load effects from this Python file (repeatable)."
)
@click.version_option(package_name="mho")
def main(files: tuple[str, ...]) -> None:
    """Simulate analog in-memory computing hardware, and train networks to survive it.

    HW is a hardware file or the name of a preset; `mho plugins` lists the presets.
    """
    # torch without numpy says so on every start; mho says it in `doctor`.
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    if files:
        from mho import registry

        for file in files:
            registry.load_file(file)
