"""The input vectors of one call of a layer: as they are, or as patches of an image, which nobody has to write out."""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor


class Window(NamedTuple):
    """How a kernel moves over the axes [...size] of an image [batch, ...size, channel]. Without any axis (`POINT`) every
    vector of channels stands for itself."""

    kernel: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()

    @property
    def cells(self) -> int:
        """Pixels under the kernel."""
        return math.prod(self.kernel)

    @property
    def is_pixel(self) -> bool:
        """Whether the patches are the pixels of the image, one after the other."""
        return self.cells == 1 and math.prod(self.stride) == 1

    def positions(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """How often the kernel fits along each axis."""
        return tuple((n - d * (k - 1) - 1) // s + 1 for n, k, d, s in zip(size, *self))

    def view(self, x: Tensor) -> Tensor:
        """x [..., ...size, channel] -> [..., ...position, ...kernel, channel], in the memory of x."""
        first = channel = x.dim() - 1 - len(self.kernel)
        for axis, (k, d, s) in enumerate(zip(*self), start=first):
            x = x.unfold(axis, d * (k - 1) + 1, s)[..., ::d]
            channel += 1
        return x.movedim(channel, -1)

    def add_to(self, x: Tensor, patches: Tensor) -> None:
        """The reverse: add patches [..., ...position, ...kernel, channel] to the pixels of x that they were taken from."""
        for at, pixels in self._pixels(x):
            pixels.add_(patches[at])

    def sums(self, x: Tensor) -> Tensor:
        """x [..., ...size, channel] -> [..., ...position, channel], the sum over each patch."""
        return functools.reduce(torch.add, (pixels for _, pixels in self._pixels(x)))

    def _pixels(self, x: Tensor) -> Iterator[tuple[Any, Tensor]]:
        """For every place in the kernel, its index in patches [..., ...kernel, channel], and the pixels of x that are there."""
        count = self.positions(tuple(x.shape[x.dim() - 1 - len(self.kernel) : -1]))
        for at in itertools.product(*map(range, self.kernel)):
            where = (slice(d * i, d * i + s * (n - 1) + 1, s) for i, n, d, s in zip(at, count, self.dilation, self.stride))
            index: Any = (..., *where, slice(None))
            yield (..., *at, slice(None)), x[index]


POINT = Window()


class Patches(NamedTuple):
    """The vectors [..., channel * kernel] that a window sees on an image [batch, ...size, channel], padded before; for `POINT`
    those of a tensor [..., in]. The last axis of `image` need not be the last one in memory."""

    image: Tensor
    window: Window = POINT

    @property
    def shape(self) -> torch.Size:
        """That of `flat()`."""
        *batch, channels = self.image.shape
        dims = len(self.window.kernel)
        size = tuple(batch[len(batch) - dims :])
        return torch.Size((*batch[: len(batch) - dims], *self.window.positions(size), channels * self.window.cells))

    def flat(self) -> Tensor:
        """The vectors written out: [batch, ...position, channel * kernel], the pixels of a channel one after the other."""
        dims = len(self.window.kernel)
        if not dims:
            return self.image
        return self.window.view(self.image).movedim(-1, -1 - dims).flatten(-1 - dims)

    def rows(self) -> Tensor:
        """The same as [vector, in]."""
        return self.flat().reshape(-1, self.shape[-1])

    def with_image(self, image: Tensor) -> Self:
        """The same patches of another image of this shape."""
        return self._replace(image=image)


def vectors(x: Tensor | Patches) -> Tensor:
    """The vectors [..., in] that a tile array is given, for whoever watches one."""
    return x.flat() if isinstance(x, Patches) else x
