"""The `mho` command. Verbs are imported when they are called, so that looking things up stays fast."""

import errno
import functools
import importlib.metadata
import importlib.util
import re
import sys
import warnings
from types import ModuleType
from typing import Any

import click

from mho.config import distributions
from mho.ground import MhoError, PluginError, system_error


class _Later(ModuleType):
    """A package that is imported at the first use of something in it; from then on it is the module that it always was."""

    def __getattr__(self, name: str) -> Any:
        assert self.__spec__ is not None and self.__spec__.loader is not None
        self.__class__ = ModuleType  # type: ignore[assignment]
        self.__path__ = list(self.__spec__.submodule_search_locations or ())
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def _import_when_used(name: str) -> None:
    """Let `import torch` of anybody cost nothing, so that verbs which only look things up do not wait seconds for it.

    `importlib.util.LazyLoader` would import it as soon as `inspect` asks all modules for their files, as pydantic makes it do.
    """
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is not None:
        module = _Later(name)
        module.__spec__, module.__file__, module.__loader__, module.__package__ = spec, spec.origin, spec.loader, name
        sys.modules[name] = module


_import_when_used("torch")

# verb -> where its command is, and what `mho --help` says about it
VERBS = {
    "check": ("mho.cli.config:check", "Say everything that is wrong with hardware files."),
    "show": ("mho.cli.config:show", "Explain every field of a kind, a preset or a hardware file."),
    "init": ("mho.cli.config:init", "Copy a preset into a file of your own."),
    "schema": ("mho.cli.config:schema", "Print a JSON schema of hardware files, for completion in editors."),
    "plugins": ("mho.cli.plugins:plugins", "List installed plugins, their kinds and presets."),
    "doctor": ("mho.cli.plugins:doctor", "Load every plugin and preset, and say what is broken."),
}


def _load_files(files: tuple[str, ...]) -> None:
    if files:
        from mho.config import registry

        for file in files:
            registry.load_file(file)


# Before the verb or behind it.
_HELP = "Load effects from this Python file (repeatable)."
_plugin_option = functools.partial(click.option, "--plugin", "plugin_files", multiple=True, metavar="FILE", help=_HELP)


class LazyGroup(click.Group):
    """Commands from the table above and from the entry-point group `mho.commands`, imported on use. All take --plugin."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_help())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = verb(cmd_name)
        if command is not None and not any("--plugin" in p.opts for p in command.params):
            _plugin_option(expose_value=False, callback=lambda _, __, files: _load_files(files))(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help of all verbs, without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(_help().items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; the user's mistakes end with one message and exit code 1, and so do those of plugins."""
        try:
            return super().invoke(ctx)
        except MhoError as error:
            click.echo(str(error), err=True)
            ctx.exit(1)
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except Exception as error:
            said = "" if ctx.params.get("traceback") else _explained(error)
            if not said:
                raise
            click.echo(f"{said}\nfor its traceback: mho --traceback {ctx.invoked_subcommand} ...", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(130)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb, or a usage error with a suggestion."""
        name = args[0] if args else ""
        if name and name not in VERBS and not name.startswith("-") and name not in self.list_commands(ctx):
            if distribution := distributions.comes_with(name):
                raise MhoError(f"mho {name} comes with {distribution}: pip install {distribution}")
            from mho.config.schema import suggest

            ctx.fail(f"no verb {name!r}; {suggest(name, self.list_commands(ctx), 'verbs')}")
        return super().resolve_command(ctx, args)


def _explained(error: Exception) -> str:
    """A sentence about what failed in somebody's code or on this machine; "" where it is mho's own mistake."""
    from mho.config import registry

    if isinstance(error, MemoryError) or re.search("alloc.* memory|out of memory", str(error), re.IGNORECASE):
        return f"not enough memory: {str(error).partition(chr(10))[0]}; ask for less at a time, or use a larger machine"
    if said := registry.default().blame(error):
        return said
    if isinstance(error, OSError) and error.errno != errno.EPIPE:
        return f"{error.filename or 'a file'}: {system_error(error)}"
    return ""


def verb(name: str) -> click.Command | None:
    """The command of a verb, imported; None if there is none."""
    if name in VERBS:
        return importlib.metadata.EntryPoint(name, VERBS[name][0], distributions.VERBS).load()
    points = plugin_verbs().get(name, [])
    if not points:
        return None
    if len(points) > 1:
        raise PluginError(distributions.several(points, f"the verb {name!r}"))
    unusable = f"verb {name!r} of {distributions.owners(points)} cannot be used"
    try:
        command = points[0].load()
    except (Exception, SystemExit) as error:
        raise PluginError(f"{unusable}: {error!r}") from error
    if not isinstance(command, click.Command):
        raise PluginError(f"{unusable}: {command!r} is no click command")
    return command


def _help() -> dict[str, str]:
    """Every verb that is there, with its help: for those of other people's plugins, what their distribution says it is."""
    installed = plugin_verbs()
    added = (d.get("verbs", {}).items() for d in distributions.ours().values())
    ours = {name: text for verbs in added for name, text in verbs if name in installed}
    ours |= {name: text for name, (_, text) in VERBS.items()}
    return ours | {name: distributions.about(p) for name, p in installed.items() if name not in ours}


def plugin_verbs() -> dict[str, list[importlib.metadata.EntryPoint]]:
    """Verb -> the entry points of plugins that claim it."""
    return distributions.entry_points(distributions.VERBS)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@_plugin_option()
@click.option("--traceback", is_flag=True, help="Show where in its code a plugin failed.")
@click.version_option(package_name="mho")
def main(plugin_files: tuple[str, ...], traceback: bool) -> None:
    """Simulate analog in-memory computing hardware, and train networks to survive it.

    HW is a hardware file or the name of a preset; `mho plugins` lists the presets.
    """
    # torch without numpy says so on every start; mho says it in `doctor`.
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    _load_files(plugin_files)
