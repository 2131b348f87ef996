"""Chips: program a network's weights on simulated devices, let them age, keep and restore them.

A chip is a seed: its weights at time t are a pure function of (target weights, seed, t), regenerated on demand.
"""

import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mho.config import format_seconds, seconds
from mho.effects import draws
from mho.ground import MhoError, html_facts, keeping, whole, writing
from mho.layers import AnalogLayer
from mho.tile import Programmed, Session, TileArray, parallel, tile_arrays

NO_LAYERS = "this model has no analog layers; convert it first: net = mho.to_analog(model, hw)"
Time = str | float | int | timedelta


class Chip:
    """One simulated chip that carries a network. Made by `program`; chip k of seed s is seed hash(s, k)."""

    def __init__(
        self, net: nn.Module, seed: int, index: int = 0, time: float = 0.0, weights: Any = None, lean: bool | str = False
    ):
        self.net, self.seed, self.index, self.time, self.lean = net, seed, index, time, lean
        self._weights: Fingerprint = Fingerprint(net) if weights is None else weights
        self._file: Path | None = None

    @property
    def key(self) -> draws.Key:
        """What all random numbers of this chip are hashed from: seed and index."""
        return draws.key("chip", self.seed, self.index)

    def age(self, t: Time) -> Self:
        """Let the chip age to `t` after programming; takes effect on the network if the chip is on it."""
        self.time = seconds(t)
        if self is session_of(self.net).chip:
            _age(self.net, self.time)
        return self

    @contextmanager
    def on(self, net: nn.Module | None = None) -> Iterator[nn.Module]:
        """Use this chip inside the `with` block; whatever was on the network before comes back afterwards."""
        net = self.net if net is None else net
        before = self.time
        try:
            with keeping_chip(net), keeping([self], "net"):
                self.put_on(net)
                yield net
        finally:
            self.time = before if chip_on(self.net) is self else self.time  # as it is there

    def save(self, path: str | Path) -> None:
        """Write the programmed conductances and constants, and the input ranges of the network, to a safetensors file;
        `load_chip` brings back the same bits (R003-33). All cells are in memory meanwhile."""
        if self.lean:
            return Chip(self.net, self.seed, self.index, self.time, self._weights).save(path)
        arrays = tile_arrays(self.net)
        with nullcontext() if chip_on(self.net) is self else self.on():
            chips = {a.name: replace(a.chip, range=a.call(a.chip.stream).range.detach()) for a in arrays if a.chip}
            state = {f"{name}|{k}": v.contiguous() for name, chip in chips.items() for k, v in chip.state().items()}
        about = {"seed": self.seed, "index": self.index, "time": self.time, "weights": self._weights.digest, "format": 1}
        about |= {"layers": {a.name: a.view.signature for a in arrays}, "corrections": _corrections(arrays)}
        with writing(path):
            save_file(state, str(path), metadata={"mho_chip": json.dumps(about)})

    def put_on(self, net: nn.Module) -> None:
        """Leave this chip on the network, at its age. Raises `MhoError` where the weights have changed since it was
        programmed, so that its seed cannot make it again; a chip from a file (`mho.load_chip`) brings its conductances along."""
        if self._file is None and Fingerprint(net) != self._weights:
            raise MhoError(
                f"the weights have changed since {self!r} was programmed, so it cannot be regenerated from its seed; "
                "program again, or save the chip before training and load it with mho.load_chip"
            )
        self._write(net)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _write(self, net: nn.Module) -> None:
        """`put_on` for weights that are known to be those of the chip. Whoever calls in inference mode may differentiate the
        network later."""
        if self._file is not None:
            _restore(net, self, self._file)
            _age(net, self.time)
        else:
            for array, matrix in matrices(net):
                array.program(matrix, self.key, self.time, self._weights, self.lean)
        self.net = net
        session_of(net).chip = self
        session_of(net).sample = 0

    def _repr_html_(self) -> str:
        arrays = tile_arrays(self.net)
        facts = {"seed": self.seed, "index": self.index, "age": format_seconds(self.time), "matrices": len(arrays)}
        on = "yes" if chip_on(self.net) is self else "no"
        return html_facts("Chip", {**facts, "tiles": sum(a.layout.tile_count for a in arrays), "on the network": on})

    def __repr__(self) -> str:
        return f"Chip(seed={self.seed}, index={self.index}, age={format_seconds(self.time)})"


def program(net: nn.Module, seed: int, chips: int | None = None, *, index: int = 0, age: Time = 0.0, lean: Any = False) -> Any:
    """Program `net` on simulated devices and leave the first chip on it, at an age of 0 s or `age`.

    Returns one `Chip` (number `index` of this seed), or with `chips=K` a list of K independent ones. The trainable
    weights are not touched. A chip holds three numbers in fp32 for every weight, and their codes; a `lean` one none: every
    forward of a layer programs and ages its cells and forgets them, for the same bits. With `lean="codes"` the first forward at
    an age keeps their codes alone, which take the memory of the weights, and the next ones without gradients are as fast as
    those of other chips; where codes do not suffice (not int8, see `mho show`), it keeps the cells. Raises `MhoError` for a
    network without analog layers, weights that are NaN, and arguments that are none of those.
    """
    arrays_of(net)
    seed, index = whole("seed", seed), whole("index", index, least=0)
    chips = None if chips is None else whole("chips", chips, least=1)
    if lean not in (False, True, "codes"):
        raise MhoError(f"lean is True, False or 'codes', got {lean!r}")
    weights, t = Fingerprint(net), seconds(age)
    made = [Chip(net, seed, index + k, t, weights, lean) for k in range(chips or 1)]
    made[0]._write(net)
    return made[0] if chips is None else made


def age(net: nn.Module, t: Time) -> None:
    """Let the chip on `net` age to `t` after programming ("1 h", a timedelta or seconds). Raises `MhoError` without a chip."""
    chip = session_of(net).chip
    if chip is None:
        raise MhoError("no chip is on this network; program one first: mho.program(net, seed=0)")
    chip.age(t)


def unprogram(net: nn.Module) -> None:
    """Take the chip off: in eval, `net` computes with its target weights and every per-MVM effect again."""
    for array in tile_arrays(net):
        array.chip = None
        array.session.chip = None


def arrays_of(net: nn.Module) -> list[TileArray]:
    """The tile arrays of a network. Raises `MhoError` where it has none."""
    if not (arrays := tile_arrays(net)):
        raise MhoError(NO_LAYERS)
    session_of(net)
    return arrays


def chip_on(net: nn.Module) -> Chip | None:
    """The chip that is on the network now."""
    return session_of(net).chip


@contextmanager
def keeping_chip(net: nn.Module) -> Iterator[None]:
    """Whatever chip is on before the block is on after it, to the bit, even if the weights have changed since; so is the axis
    of the samples."""
    session = session_of(net)
    with keeping(tile_arrays(net), "chip"), keeping([session], "chip", "sample", "batch_axis"):
        yield


def keeping_modes(net: nn.Module) -> AbstractContextManager[None]:
    """Every module is in train or eval mode after the block as it was before."""
    return keeping(net.modules(), "training")


@contextmanager
def hearing(modules: Iterable[nn.Module], hear: Callable[[Any, tuple[Any, ...]], None]) -> Iterator[None]:
    """`hear(module, arguments)` is called before every forward of these modules inside the block."""
    hooks = [m.register_forward_pre_hook(hear) for m in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def load_chip(net: nn.Module, path: str | Path) -> Chip:
    """Put a saved chip on `net`: the same bits as when it was saved, whatever the weights have become since. Raises
    `MhoError` for a file that is no saved chip, or one of another network (other tiles, effects or digital corrections). Its
    input ranges are used while it is on, until the network is calibrated with it."""
    path = Path(path)
    try:
        about = _about(path)
    except (OSError, SafetensorError, KeyError, ValueError) as e:
        raise MhoError(f"{path} is not a saved chip ({type(e).__name__}); chips are written by Chip.save") from None
    chip = Chip(net, about["seed"], about["index"], about["time"])
    chip._file = path
    chip.put_on(net)
    return chip


def matrices(net: nn.Module) -> Iterator[tuple[TileArray, Tensor]]:
    """Every (tile array, weight matrix) of a network, shared ones once. A matrix that is sharded over ranks (FSDP2) is whole
    until the next one is asked for, and may be changed in place."""
    seen: set[TileArray] = set()
    for layer in net.modules():
        if not isinstance(layer, AnalogLayer):
            continue
        with parallel.whole(layer):
            for array, matrix in layer.matrices():
                if array not in seen:
                    seen.add(array)
                    yield array, matrix


class Fingerprint:  # noqa: PLW1641 (compared, never a key)
    """What tells whether a chip can be regenerated from its seed: a hash of the analog weights and scales. It is read from the
    device only where two are compared, so that programming does not wait for it."""

    def __init__(self, net: nn.Module) -> None:
        self._sums: list[Tensor] = []
        for array, matrix in matrices(net):
            array.follow(matrix, sure=True)
            self._sums += _sums(array.stored(matrix)), _sums(array.gamma)

    @functools.cached_property
    def digest(self) -> str:
        """As a chip's file has it."""
        return _digest(self._sums)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Fingerprint) and self.digest == other.digest)


def _corrections(arrays: Iterable[TileArray]) -> str:
    """What digital corrections have been fitted to, without which a chip computes something else; no adapters."""
    return _digest([_sums(t) for a in arrays for c in a.corrections for t in c.buffers()])


def _digest(sums: Iterable[Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for each in sums:
        digest.update(each.cpu().numpy().data)
    return digest.hexdigest()


def _sums(t: Tensor) -> Tensor:
    """Sums over blocks of the bits of every number times an odd word of its place, mod 2^64: never the same after one number of
    a block has changed, and hardly ever after several have. A fraction of the time of a cryptographic hash. Of fp32, since
    another type makes no other chip."""
    flat, words = t.detach().contiguous().flatten(), draws.odd_words(1 << 15, t.device)
    return torch.stack([(part.float().view(torch.int32) * words[: len(part)]).sum() for part in flat.split(len(words))])


def session_of(net: nn.Module) -> Session:
    """What the analog layers of a network share; a new session where it has none. Layers that were built by hand become one
    network here, and are called what they are in it. Raises `MhoError` for a model that holds several separately converted
    networks."""
    found = list({id(a.session): a.session for a in tile_arrays(net)}.values())
    if len(found) > 1 and any(s.report is not None for s in found):
        raise MhoError("this model holds several separately converted networks; program each of them on its own")
    return _joined(net, found) if len(found) > 1 else found[0] if found else Session()


def _joined(net: nn.Module, parts: list[Session]) -> Session:
    """The session of a network whose layers had sessions of their own."""
    known = parts[0].hardware
    session = Session(hardware=known if all(s.hardware == known for s in parts) else None)
    for part in parts:
        part.unwatch()
    for name, layer in net.named_modules():
        for key, array in layer.arrays().items() if isinstance(layer, AnalogLayer) else ():
            if array.session is not session:
                array.join(session, f"{name}.{key}".strip("."))
    session.watch(net)
    return session


@torch.inference_mode(False)
@torch.no_grad()
def _age(net: nn.Module, t: float) -> None:
    for array in tile_arrays(net):
        array.age(t)
    session_of(net).sample = 0


def _about(path: Path) -> dict[str, Any]:
    """What a saved chip says about itself."""
    with safe_open(str(path), "pt") as f:
        about: dict[str, Any] = json.loads((f.metadata() or {})["mho_chip"])
    return about


def _restore(net: nn.Module, chip: Chip, path: Path) -> None:
    about, arrays, saved = _about(path), tile_arrays(net), defaultdict[str, dict[str, Tensor]](dict)
    if (about["seed"], about["index"]) != (chip.seed, chip.index):
        raise MhoError(f"{path} holds another chip by now than {chip!r}")
    layers, corrections = about.get("layers", {}), _corrections(arrays)
    for name, value in load_file(str(path)).items():
        layer, _, what = name.partition("|")
        saved[layer][what] = value
    for array in arrays:
        if layers.get(array.name) != array.view.signature:
            raise MhoError(
                f"{path} was saved from another network or hardware: layer {array.name!r} is {array.view.signature} here, "
                f"{layers.get(array.name, 'missing')} there"
            )
    if about.get("corrections", corrections) != corrections:
        raise MhoError(f"{path} was saved with other digital corrections: load its network first (mho.load_model), or program")
    for array in arrays:
        own = {what: value.to(array.device) for what, value in saved.pop(array.name, {}).items()}
        array.chip = Programmed.restored(draws.fold_words(chip.key, array.path), own)
        if array.chip.range is None and array.learns_range:
            array.session.say(f"ranges of {path}", f"{path} holds no input ranges: those of the network are used")
