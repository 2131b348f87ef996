"""The same formulas, compiled: pointwise work as kernels that torch.compile makes (`compile: true` in the hardware file).

A kernel is a function of tensors. Whatever may change between two calls is an argument; effects and geometry are built in, so
only arguments are compared at a call, and arrays of one kind (hardware and shape) share their kernels. What cannot be
compiled (a term that draws random numbers itself, a machine without a C++ compiler) runs eagerly, and says so.
"""

import functools
import inspect
import itertools
import re
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any, TypeVar

import torch

from mho.effects import possible
from mho.tile import TileView

T = TypeVar("T")
Make = Callable[[TileView], Callable[..., Any]]  # a kernel of an array
_numbers = itertools.count()
WORTHWHILE = 1 << 15  # elements that a kernel works on; for fewer, most runs win less time than it takes to make
VARIANTS = 64  # of one kernel, for what is compared at a call; one more, and it runs eagerly


class Kernels:
    """The kernels that one array uses, made when they are first called."""

    def __init__(self, view: TileView, kind: tuple[Hashable, ...], wanted: bool) -> None:
        self.view, self.route_kind, self.wanted = view, kind, wanted
        self.weights = view.layout.out_features * view.layout.in_features // view.layout.groups
        self.made: dict[str, Callable[..., Any]] = {}
        self.refused: dict[str, str] = {}  # name of a kernel: why it runs eagerly
        self.purpose = ""

    def wants(self, elements: int = 0) -> bool:
        """Whether so much work is worth a kernel."""
        return self.wanted and max(self.weights, elements) >= WORTHWHILE

    def run(
        self, name: str, make: Make, args: tuple[Any, ...], eager: Callable[[], T], elements: int = 0, own: bool = False
    ) -> Any:
        """The compiled function `make(view)` of `args`, or `eager()`. It works on the weights or on more `elements`. All arrays
        of a kind share it; unless it is this array's `own`, as where it draws random numbers, or effects have something
        built for this array."""
        name = self.purpose + name
        if not self.wants(0 if self.purpose else elements) or name in self.refused or not possible():
            return eager()
        try:
            if name not in self.made:
                own = own or len(self.view.built) > 0
                self.made[name] = _compiled(make(self.view)) if own else self._shared(name, make)
            return self.made[name](*(_detached(a) for a in args))
        except Exception as error:  # whatever a compiler says; a mistake in the formulas comes back from `eager`
            self._refuse(name, error)
        return eager()

    @contextmanager
    def apart(self, purpose: str) -> Iterator[None]:
        """Kernels of their own in here, for arrays of many weights: in those of evaluation, another number of vectors would make
        that number a variable, which is slower."""
        before, self.purpose = self.purpose, f"{purpose} "
        try:
            yield
        finally:
            self.purpose = before

    def _shared(self, name: str, make: Make) -> Callable[..., Any]:
        """The kernel of this kind, as long as an array has it; its view stays when the array of ours moves."""
        kind = (name, *self.view.kind, *self.route_kind)
        kernel = _kinds.get(kind)
        if kernel is None:
            _kinds[kind] = kernel = _compiled(make(self.view.bare()))
        return kernel

    def _refuse(self, name: str, error: Exception) -> None:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        why = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        self.refused[name] = why
        self.made.pop(name, None)
        warnings.warn(f"layer {self.view.name!r}: its {name} cannot be compiled and runs eagerly ({why})", stacklevel=4)


_kinds: weakref.WeakValueDictionary[Hashable, Callable[..., Any]] = weakref.WeakValueDictionary()


def _detached(argument: Any) -> Any:
    """Inside an autograd.Function nothing is recorded, but tensors still say that they require gradients: a kernel would be
    made for that."""
    return argument.detach() if isinstance(argument, torch.Tensor) and argument.requires_grad else argument


def _compiled(function: Callable[..., T]) -> Callable[..., T]:
    """`function` with code and a name of its own: torch counts kernels by code and gives up behind the eighth, and sizes that
    have changed once under a name are variable from then on."""
    assert isinstance(function, FunctionType)
    code = function.__code__.replace(co_name=f"kernel_{next(_numbers)}")
    own = FunctionType(code, function.__globals__, code.co_name, function.__defaults__, function.__closure__)
    options: dict[str, Any] = {
        "guard_filter_fn": functools.partial(_about, _parameters(code)),
        "assert_indirect_indexing": False,  # of the table of normal numbers: its indices are 16 bits
        "cpp.max_horizontal_fusion_size": 256,  # one loop, however long
    }
    return torch.compile(own, fullgraph=True, options=options, **_limit())


@functools.cache
def _limit() -> dict[str, Any]:
    """Batches of one and of several vectors, with and without codes, outside and in inference mode, with and without a chip:
    more than the eight variants that torch makes of a kernel. Older versions cannot be told so for one kernel."""
    return {"recompile_limit": VARIANTS} if "recompile_limit" in inspect.signature(torch.compile).parameters else {}


def _parameters(code: CodeType) -> set[str]:
    count = code.co_argcount + bool(code.co_flags & inspect.CO_VARARGS)
    return set(code.co_varnames[:count])


def _about(parameters: set[str], guards: Sequence[Any]) -> list[bool]:
    """Of the conditions under which torch would compile again, those on sizes, on tensors wherever they are, and on all that the
    parameters of the kernel hold: what is None, how many, which are one and the same."""
    return [
        g.guard_type in ("TENSOR_MATCH", "SHAPE_ENV")
        or (not g.is_global and re.split(r"\W", g.name, maxsplit=1)[0] in parameters)
        for g in guards
    ]
