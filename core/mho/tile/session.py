"""What the layers of one network share while it runs: keys, the sample counter, and which chip is on.

Two regimes (the only two sources of randomness in mho):

training, or no chip   a root forward draws one weight key from torch's generator, kept on the layers until the next
                       root forward, so that every use of a layer in it (shared, recurrent, checkpoint replay) sees the
                       same weights; each layer call draws a call key. `torch.manual_seed` governs both. Ranks that train
                       one network together use the weight key of the first.
a chip in eval         keys are hashes of (chip, layer, effect, purpose, time, use); counters are (sample, position,
                       tile, output), so results do not depend on how an evaluation is cut into batches.
"""

import functools
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

from mho.effects import Stream, draws
from mho.effects.draws import Key
from mho.effects.site import Vectors
from mho.tile import parallel


class Member(nn.Module):
    """A part of a network that takes part in its session: a tile array. What belongs to the session, here.

    session     shared by all members of a network
    weight_key  [2] int32 of the root forward that is under way, or was the last one; `held` if it came from one
    order       how the vectors that it is given lie, see `AnalogLayer.order`
    seen        abs-max [tile, 1] of the last inputs, where input ranges follow statistics
    chip        `Programmed`: what the chip that is on holds of it
    deployed    whether that is in use; `quick`: whether normal numbers of training have 16 bits
    """

    name: str
    path: tuple[int, int]  # names its random numbers
    chip: Any
    deployed: Any
    quick: Any
    device: Any

    def __init__(self) -> None:
        super().__init__()
        self.session = Session()
        self.weight_key: Tensor | None = None
        self.held = False
        self.order = "steps"
        self.seen: Tensor | None = None

    def hold(self, drawn: Key, by_root: bool = True) -> None:
        """Keep the weight key of the root forward until the next one."""
        self.weight_key = torch.stack([torch.as_tensor(v) for v in drawn]).to(self.device)
        self.held = by_root


class Session:
    """Shared by all tile arrays of one converted network; a lone layer has one of its own."""

    def __init__(self, report: Any = None, hardware: Any = None) -> None:
        self.report, self.hardware = report, hardware  # of the conversion
        self.active = False  # whether a root forward is under way
        self.batch_axis = 0  # of the first tensor that the root forward is given; see `evaluate`
        self.batch: int | None = None  # samples of the current root forward
        self._sample = torch.zeros((), dtype=torch.int32)
        self.alone: Counter[str] = Counter()  # vectors of layers that were called outside of a root forward since
        self.uses: Counter[str] = Counter()  # calls of each layer within the current root forward
        self.chip: Any = None  # the chip that is on
        self.rank = 0  # of this process among those that train the network together
        self.before: int | None = None  # samples in front of ours in the mini-batch that they share, where somebody has said so
        self.said: set[str] = set()  # what warnings were about
        self.found: dict[str, tuple[str, list[str]]] = {}  # what this root forward has to warn about, and where
        self._hooks: tuple[RemovableHandle, ...] = ()

    @property
    def sample(self) -> int | Tensor:
        """Number of the first sample of this root forward, since the chip was programmed or aged. A compiled graph sees a
        tensor, which so serves all batches."""
        return self._sample if torch.compiler.is_compiling() else int(self._sample)

    @sample.setter
    def sample(self, number: int | Tensor) -> None:
        self._sample = torch.as_tensor(number, dtype=torch.int32)
        if not torch.compiler.is_compiling():
            self.alone.clear()

    # -- root forward -----------------------------------------------------------------------------------------
    def watch(self, root: nn.Module) -> None:
        """Make `root` announce its forwards."""
        self._hooks = (
            root.register_forward_pre_hook(self._begin, with_kwargs=True),
            root.register_forward_hook(self._end, always_call=True),
        )

    def unwatch(self) -> None:
        """End what `watch` began."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = ()

    def _begin(self, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.active = True  # set, not counted: a forward that was interrupted leaves nothing behind
        self.batch = batch_size([*args, *kwargs.values()], self.batch_axis)
        self.uses.clear()
        arrays = [a for a in members(root) if not a.deployed]
        if arrays:
            drawn = draws.fresh(arrays[0].device)
            group = parallel.group_of(root) if root.training else None
            if group is not None:  # ranks that share their weights share the noise on them, and nothing else
                drawn, self.rank = parallel.of_first_rank(drawn, group), group.rank()
            for array in arrays:
                array.hold(drawn)

    def _end(self, root: nn.Module, args: Any, output: Any) -> None:
        self._bring_key_back(root, output)
        if root.training and (group := parallel.group_of(root)) is not None:
            parallel.largest_((a.seen for a in members(root) if a.seen is not None), group)
        self.active = False
        self.sample += self.batch or 0
        self.batch = None
        self.uses.clear()
        self._say_found()

    @staticmethod
    def _bring_key_back(root: nn.Module, output: Any) -> None:
        """Whenever a backward enters through an output of this forward, its weight key is the current one again:
        activation checkpointing then replays its weights, even if another forward has come in between (R001-10).

        The engine works through later forwards first, so all replays of one come between its outputs and the next."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        keys = [(a, a.weight_key) for a in members(root) if a.held and not a.deployed]
        for tensor in _tensors(output):
            if keys and tensor.grad_fn is not None:
                tensor.grad_fn.register_prehook(functools.partial(_hold_again, keys))

    # -- layer calls ------------------------------------------------------------------------------------------
    def enter(self, array: Member, shape: torch.Size, device: torch.device) -> Stream:
        """The keys of one layer call on input vectors [...shape]."""
        return self._deployed(array, shape) if array.deployed else self._drawn(array, shape.numel(), device)

    def _deployed(self, array: Member, shape: torch.Size) -> Stream:
        vectors = shape.numel()
        use = self.uses[array.name]
        self.uses[array.name] = use + 1
        assert array.chip is not None
        chip, calls, time = array.chip.keys
        call = draws.fold(calls, use)
        if not self.active:  # called on its own: every vector is a sample, and each layer counts its own
            first = self.sample
            if torch.compiler.is_compiling():
                self.sample = first + vectors
            else:
                first += self.alone[array.name]
                self.alone[array.name] += vectors
            self.uses.clear()
            return stream_of(chip, call, time, vectors, first=first, samples=vectors)
        return stream_of(chip, call, time, vectors, first=self.sample, samples=self.batch, outer=self._outer(array, shape))

    def _outer(self, array: Member, shape: torch.Size) -> int:
        """How many positions come before the samples in the inputs [...shape] of a layer, in a network that is given
        [time, batch, ...]; see `AnalogLayer.order`."""
        if not (self.batch and self.batch_axis and shape) or array.order == "samples":
            return 1
        if array.order == "steps" and len(shape) > 1 and shape[1] == self.batch:
            return shape[0]
        return max(1, shape[0] // self.batch) if shape[0] % self.batch == 0 else 1

    def _drawn(self, array: Member, vectors: int, device: torch.device) -> Stream:
        call, before = draws.as_numbers(draws.fresh(device)), 0
        if self.before is not None and self.batch and vectors % self.batch == 0:  # noise as one process would draw it
            before = self.before * (vectors // self.batch)
        elif self.rank:  # ranks of one seed draw the same key
            call = draws.fold(call, "rank", self.rank)
        stream = stream_of(self.mini_batch(array, device), call, 0.0, vectors)
        return replace(stream, quick=array.quick, vectors=stream.vectors._replace(before=before))

    def mini_batch(self, array: Member, device: torch.device) -> Key:
        """The key of the weights of this root forward."""
        # Activation checkpointing replays layers during backward, outside their root forward; they must see its weights.
        replayed = not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
        if not self.active and not (array.held and replayed):  # called on its own: a root forward of one layer
            array.hold(draws.fresh(device), by_root=False)
        assert array.weight_key is not None
        return draws.fold_words(draws.as_numbers(Key(*array.weight_key)), array.path)

    def samples(self, vectors: int) -> int:
        """How many samples these vectors of one call belong to; each vector is one where that cannot be known."""
        return self.batch if self.active and self.batch and vectors % self.batch == 0 else vectors

    def warn_unattached(self) -> None:
        """Training without `attach` is allowed, but clip, remap and ramp are then off: say so once."""
        self.say(
            "attach",
            "training an analog network without mho.attach(optimizer, net): noise is injected at full strength, and weights "
            "are not clipped",
        )

    def find(self, about: str, text: str, where: str) -> None:
        """Warn, at the end of the root forward: `text` with all names in place of {}."""
        self.found.setdefault(about, (text, []))[1].append(where)
        if not self.active:
            self._say_found()

    def _say_found(self) -> None:
        while self.found:
            about, (text, names) = self.found.popitem()
            self.say(about, text.format(", ".join(dict.fromkeys(names))))

    def say(self, about: str, text: str) -> None:
        """Warn, once about each thing."""
        if about not in self.said and not torch.compiler.is_compiling():
            self.said.add(about)
            warnings.warn(text, stacklevel=3)


def _hold_again(keys: list[tuple[Member, Tensor | None]], *_: Any) -> None:
    for array, key in keys:
        array.weight_key, array.held = key, True


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _tensors(v)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def members(model: nn.Module) -> list[Member]:
    """Those of a network, each once, in module order."""
    return [m for m in model.modules() if isinstance(m, Member)]


def stream_of(
    chip: Key, call: Key, t: float | Key, vectors: int, first: int | Tensor = 0, samples: int | None = None, outer: int = 1
) -> Stream:
    """Number the vectors: sample by sample where they divide into the samples of the root forward."""
    if samples and vectors % samples == 0:
        return Stream(chip, call, t, Vectors(first, samples, vectors // samples, outer))
    return Stream(chip, draws.fold_words(draws.fold(call, "forward"), (first, 0)), t, Vectors(0, vectors, 1))


def batch_size(values: list[Any], axis: int = 0) -> int | None:
    """Samples in the first tensor of the arguments, looking into lists and dicts."""
    for v in values:
        if isinstance(v, PackedSequence):
            return int(v.batch_sizes[0])
        if isinstance(v, Tensor) and v.ndim > axis:
            return v.shape[axis]
        inner = list(v.values()) if isinstance(v, dict) else list(v) if isinstance(v, (list, tuple)) else []
        if inner and (found := batch_size(inner, axis)) is not None:
            return found
    return None
