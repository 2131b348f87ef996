"""Where the vectors of a call come from: they are rows of the codes, or patches gathered from the codes of an image.

An image is coded pixel by pixel, once, and stays [pixel, channel] in memory; a tile gets the pixels under the kernel one after
the other, each with the channels of this tile: long runs of memory. So the rows of a tile come as [kernel, channel] in
codes and in the planes of the weights, and as [channel, kernel] everywhere else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mho.tile import POINT, Layout, Patches, Window
from mho_fast.route import Route


@dataclass(frozen=True)
class Source:
    """The vectors that a window sees on codes [pixel, channel] of images [batch, ...size, channel].

    sizes   rows of every tile, whole channels each
    """

    window: Window
    size: tuple[int, ...]
    batch: int
    sizes: Sequence[int]

    @property
    def positions(self) -> tuple[int, ...]:
        return self.window.positions(self.size)

    @property
    def per_image(self) -> int:
        """Vectors of an image."""
        return math.prod(self.positions)

    @property
    def count(self) -> int:
        """Vectors of the call."""
        return self.batch * self.per_image

    def channels(self, tile: int) -> slice:
        """The channels that a tile gets."""
        start = sum(self.sizes[:tile]) // self.window.cells
        return slice(start, start + self.sizes[tile] // self.window.cells)

    def chunks(self, most: int) -> list[slice]:
        """All vectors in slices of about `most`: whole images, or lines of one."""
        if most >= self.per_image or not self.size:
            step = max(1, most // self.per_image) * self.per_image
            return [slice(i, min(i + step, self.count)) for i in range(0, self.count, step)]
        line = self.per_image // self.positions[0]
        step = max(1, most // line) * line
        inside = [(i, min(i + step, self.per_image)) for i in range(0, self.per_image, step)]
        return [slice(b + i, b + j) for b in range(0, self.count, self.per_image) for i, j in inside]

    # -- from codes to vectors ----------------------------------------------------------------------------------
    def rows(self, codes: Tensor, c: slice, tile: int) -> Tensor:
        """What a tile gets of codes [pixel, channel] in one of the `chunks`: [vector, row]."""
        return self.patches(codes, c, tile).reshape(-1, self.sizes[tile])

    def patches(self, codes: Tensor, c: slice, tile: int) -> Tensor:
        """The same, not written out yet: [vector, row] or [image, ...position, ...kernel, channel]."""
        mine = codes[:, self.channels(tile)]
        return mine[c] if self.window.is_pixel else self.window.view(self._images(mine, c).contiguous())

    def patches_of_all(self, codes: Tensor, c: slice) -> Tensor:
        """The same for all tiles of one height, in fp32: [tile, ...kernel, channel, image, ...position]."""
        images = self._images(codes, c).unflatten(-1, (len(self.sizes), -1)).movedim((-2, -1), (0, 1))
        return self.window.view(images.contiguous().to(torch.float32).unsqueeze(-1)).squeeze(-1).movedim(*self._kernel_axes)

    @property
    def _kernel_axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """From behind all others to behind the first."""
        dims = len(self.size)
        return tuple(range(-dims, 0)), tuple(range(1, dims + 1))

    def _images(self, codes: Tensor, c: slice) -> Tensor:
        """The images that the vectors c are in, or of one image the lines: [image, ...size, channel]."""
        first, last = c.start // self.per_image, -(-c.stop // self.per_image)
        images = codes.unflatten(0, (self.batch, *self.size))[first:last]
        if c.stop - c.start >= self.per_image:
            return images
        line, stride = self.per_image // self.positions[0], self.window.stride[0]
        start, count = c.start % self.per_image // line, (c.stop - c.start) // line
        reach = self.window.dilation[0] * (self.window.kernel[0] - 1) + 1
        return images[:, start * stride : (start + count - 1) * stride + reach]

    def sums(self, codes: Tensor, c: slice, w: Tensor) -> Tensor:
        """Sums over the window of each channel in one of the `chunks`: codes [pixel, channel] times w [channel, ...kernel], in
        fp32 -> [channel, vector, 1], vector after vector in memory."""
        kernel, dilation, stride = self.window
        x = self._images(codes, c).to(torch.float32).movedim(-1, 1)
        convolution = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
        y = convolution(x, w.reshape(-1, 1, *kernel), stride=stride, dilation=dilation, groups=len(w))
        return y.movedim(1, -1).reshape(-1, len(w)).t().unsqueeze(-1)

    def over_window(self, v: Tensor) -> Tensor:
        """[pixel, 1] -> [vector, 1], the sum over the pixels of each vector."""
        if self.window.is_pixel:
            return v
        return self.window.sums(v.unflatten(0, (self.batch, *self.size))).reshape(self.count, 1)

    def add_up(self, pixels: Tensor, rows: Tensor, c: slice, tile: int) -> None:
        """The reverse of `rows`: add to every pixel the rows of the vectors that it is part of."""
        images = self._images(pixels, c)[..., self.channels(tile)]
        positions = self.window.positions(tuple(images.shape[1:-1]))
        self.window.add_to(images, rows.view(len(images), *positions, *self.window.kernel, -1))

    def add_up_all(self, pixels: Tensor, rows: Tensor, c: slice) -> None:
        """The same for all tiles of one height, rows [tile, row, vector]."""
        images = self._images(pixels, c)
        tiles, positions = len(self.sizes), self.window.positions(tuple(images.shape[1:-1]))
        patches = rows.view(tiles, *self.window.kernel, -1, len(images), *positions).movedim(*self._kernel_axes[::-1])
        total = rows.new_zeros(tiles, patches.shape[1], *images.shape[:-1], 1)
        self.window.add_to(total, patches.unsqueeze(-1))
        images += total.squeeze(-1).flatten(0, 1).movedim(0, -1)


def source(layout: Layout, route: Route, x: Patches) -> tuple[Source, Tensor]:
    """Where the vectors of this call come from, and the [pixel, channel] that are to be coded. The planes of an array are in one
    order: whatever comes in another form is written out, and where that array wants patches, is patches of one position."""
    cells, window = route.cells, x.window
    if window != POINT and (route.unfolded or window.cells != cells):
        x, window = Patches(x.flat()), POINT
    image = x.image
    if window == POINT:
        image = image.reshape(-1, image.shape[-1])
        if cells > 1:
            image, window = image.unflatten(-1, (-1, cells)).mT, Window((cells,), (1,), (1,))
    return Source(window, tuple(image.shape[1:-1]), image.shape[0], layout.rows_of_tiles), image.reshape(-1, image.shape[-1])


def spread(layout: Layout, route: Route, v: Tensor) -> Tensor:
    """v [..., tile, 1] for every tile -> [..., channel], for every input that is coded."""
    return v.squeeze(-1).index_select(-1, layout.tile_of[:: route.cells])


def by_pixel(w: Tensor, cells: int) -> Tensor:
    """[..., row] of one tile, with the rows in the order of the codes."""
    return w if cells == 1 else w.unflatten(-1, (-1, cells)).mT.flatten(-2)


def by_channel(w: Tensor, cells: int) -> Tensor:
    """Back again."""
    return w if cells == 1 else w.unflatten(-1, (cells, -1)).mT.flatten(-2)


def tiles_by_pixel(w: Tensor, sizes: Sequence[int], cells: int) -> Tensor:
    """The same for all tiles, w [..., tile, out, row] with padding."""
    if cells == 1:
        return w
    if len(set(sizes)) == 1:
        return by_pixel(w, cells)
    out = torch.empty_like(w)
    for t, rows in enumerate(sizes):
        out[..., t, :, :rows] = by_pixel(w[..., t, :, :rows], cells)
    return out
