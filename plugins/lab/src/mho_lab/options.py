"""Options that verbs share, short ways to write others, and the folder where results go."""

import functools
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mho.cli.config import SET
from mho.ground import MhoError

if TYPE_CHECKING:
    from pydantic import BaseModel

Model = TypeVar("Model", bound="BaseModel")
Option = Callable[[Callable[..., Any]], Callable[..., Any]]


MOST = 10**6  # of anything that is counted
EDGE = 10**12  # of seeds: torch's have 64 bits, and some are multiplied


class Place(click.Path):
    """A file or folder to read or write, as a `Path`; names that no system has are refused before anything is done."""

    def __init__(self, **kind: Any) -> None:
        super().__init__(path_type=Path, **kind)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = os.fspath(value)
        if not text:
            self.fail("the name is empty", param, ctx)
        if any(len(os.fsencode(part)) > 240 for part in Path(text).parts):
            self.fail(f"a name in {text[:40]!r}… is too long: at most 240 bytes", param, ctx)
        if self.exists and Path(text).is_char_device():  # /dev/zero never ends
            self.fail(f"{text!r} is a device; expected a file", param, ctx)
        return super().convert(value, param, ctx)


def together(*options: Option) -> Option:
    """Arguments and options as one decorator, in the order of --help."""
    return lambda verb: functools.reduce(lambda made, option: option(made), reversed(options), verb)


def count(flag: str, default: int, text: str, least: int = 1, most: int = MOST) -> Option:
    """How many: a whole number from `least` to `most`."""
    return click.option(flag, default=default, show_default=True, type=click.IntRange(least, most), help=text)


def at_most(flag: str, text: str, least: int = 1, **more: Any) -> Option:
    """A whole number from `least` that need not be given."""
    return click.option(flag, type=click.IntRange(least, MOST), help=text, **more)


def several(flag: str, name: str, metavar: str | None, text: str, **more: Any) -> Option:
    """May be given several times; the argument `name` holds all."""
    return click.option(flag, name, multiple=True, metavar=metavar, help=text, **more)


def switch(flag: str, text: str) -> Option:
    """On or off."""
    return click.option(flag, is_flag=True, help=text)


def file(flag: str, text: str, **more: Any) -> Option:
    """A file to write."""
    return click.option(flag, type=Place(dir_okay=False), help=text, **more)


def folder(flag: str, text: str) -> Option:
    """A folder to write to."""
    return click.option(flag, type=Place(file_okay=False), help=text)


def _use_device(context: click.Context, option: click.Parameter, name: str) -> None:
    from mho_lab import devices

    devices.use(name)


EXISTING = Place(exists=True, dir_okay=False)  # a file that is there
TASK_AND_HW = together(click.argument("task"), click.argument("hw"), SET)
OUT = folder("--out", "Folder of the results [mho-runs/TASK-HW-...].")
SEED = click.option("--seed", default=0, show_default=True, type=click.IntRange(-EDGE, EDGE), help="Same seed, same result.")
THREADS = count("--threads", 1, "Threads of torch; results are bit-equal only for the same number.")
DEVICE = click.option(
    "--device", default="cpu", show_default=True, expose_value=False, callback=_use_device,
    help="cpu, cuda, cuda:N, mps, or auto: the accelerator that there is.",
)  # fmt: skip
EXECUTORS = together(
    click.option("--executor", default="serial", show_default=True, help="serial, process, loky, or a joblib backend."),
    at_most("--workers", "Processes of the executor."),
    click.option("--dask", metavar="ADDRESS", help="Of the scheduler of a Dask cluster, whose workers see the same folders."),
)
SHARD = click.option("--shard", metavar="I/N", help="Only the I-th of N parts, e.g. of a job array; all share the folder.")
EVERY = at_most("--save-every", "Keep the state of a training after every so many steps too, not only after each epoch.")
FSDP = switch("--fsdp", "Under torchrun: processes share parameters and optimizer too (FSDP2), not only mini-batches.")
CHIPS = count("--chips", 25, "Simulated chips.")


def default_folder(task: str, hardware: str, digest: str, seed: int | None = None) -> Path:
    """mho-runs/digits-pcm.standard-1a2b3c4d-s0: one folder for each hardware content and seed, or for several seeds."""
    name = Path(hardware).stem if hardware.endswith((".yaml", ".yml")) else hardware
    return Path("mho-runs") / f"{task}-{name}-{digest[:8]}-{'seeds' if seed is None else f's{seed}'}"


def command_line() -> str:
    """What was typed, to get the same again."""
    return shlex.join(["mho", *sys.argv[1:]])


def resumable(work: Callable[[], Any], where: Path) -> Any:
    """What `work` gives; interrupted, it says how to go on."""
    try:
        return work()
    except KeyboardInterrupt:
        click.echo(f"\nrepeat the command to go on from {where}", err=True)
        raise


def bar(what: str, total: int | None = None) -> Any:
    """Progress with the time that is left: at once on a terminal, in a log a line every ten seconds once ten have gone by."""
    from tqdm import tqdm

    every = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(desc=what, total=total, delay=every, mininterval=every, maxinterval=max(every, 10.0), leave=False)


def checked(cls: type[Model], values: dict[str, Any]) -> Model:
    """Values of the command line as a model. Raises `MhoError` with every mistake."""
    from pydantic import ValidationError

    try:
        return cls.model_validate(values)
    except ValidationError as error:
        told = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise MhoError("\n".join(told)) from None


def shard_of(text: str | None) -> tuple[int, int] | None:
    """(i, n) of I/N. Raises `MhoError` for anything else."""
    if text is None:
        return None
    if not re.fullmatch(r"\d+/\d+", text):
        raise MhoError(f"--shard {text}: expected I/N, e.g. 2/8")
    i, n = (int(v) for v in text.split("/"))
    return i, n
