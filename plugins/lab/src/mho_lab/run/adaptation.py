"""Direct deployment: what can be adapted on hardware without training a weight (R003-80)."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mho.ground import MhoError
from mho.tile import tile_arrays
from mho.use import calibrate, keeping_modes, matrices, run_batch
from mho_lab.run.inspection import parameters_on_tiles, replaced

Forward = Callable[[nn.Module, Any], Any]


def adapt_batch_norm(net: nn.Module, batches: Iterable[Any], *, forward: Forward | None = None) -> int:
    """Estimate the running statistics of all batch norms of `net` anew, as plain averages over `batches`; returns how many
    there are. No parameter is touched; everything else runs as in evaluation, so with a chip on the network the
    statistics are those on that chip. `forward(net, batch)` as in `mho.calibrate`.

    Raises `MhoError` where there are batch norms and no batches.
    """
    kind = nn.modules.batchnorm._BatchNorm  # noqa: SLF001 (torch has no public name for all batch norms)
    norms = [m for m in net.modules() if isinstance(m, kind) and m.track_running_stats]
    if not norms:
        return 0
    seen, average = False, replaced(norms, "momentum", lambda _: None)  # torch's word for the average over all batches
    with average, keeping_modes(net), torch.no_grad():
        net.eval()
        for m in norms:
            m.reset_running_stats()
            m.train()
        for batch in batches:
            run_batch(net, batch, forward)
            seen = True
    if not seen:
        raise MhoError("adapt_batch_norm saw no data: `batches` was empty")
    return len(norms)


def tune_digital(
    net: nn.Module,
    batches: Iterable[Any],
    loss: Callable[[Any, Any], Tensor],
    *,
    lr: float = 0.01,
    cap: float | None = None,
    forward: Forward | None = None,
) -> nn.Module:
    """The direct baseline of R003-80, in place: the weights on tiles stay, everything digital may adapt.

    The first half of `batches` sets the input ranges (mean of the largest |x| of each batch, at most `cap`), the second half
    trains input ranges, biases and other digital parameters by SGD at rate `lr`, through all effects but without weight
    noise; batch norms adapt all along. A single batch serves for both. `loss(outputs, batch)` as in a task.

    Raises `MhoError` without batches.
    """
    batches = list(batches)
    if not batches:
        raise MhoError("tune_digital saw no data: `batches` was empty")
    half = len(batches) // 2
    first, second = (batches[:half], batches[half:]) if half else (batches, batches)
    calibrate(net, first, cap=cap, forward=forward)
    adapt_batch_norm(net, first, forward=forward)
    with _weights_fixed(net), keeping_modes(net):
        free = [p for p in net.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(free, lr=lr) if free else None
        net.train()
        for batch in second:
            value = loss(run_batch(net, batch, forward), batch)
            if optimizer is not None:
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                for array, _ in matrices(net):
                    array.input_range.data.clamp_(min=1e-6)
    return net


@contextmanager
def _weights_fixed(net: nn.Module) -> Iterator[None]:
    """No gradient for weights on tiles, and no noise injected into them."""
    quiet = {"inject": None, "drop_connect": 0.0}
    fixed = replaced(parameters_on_tiles(net).values(), "requires_grad", lambda _: False)
    with fixed, replaced(tile_arrays(net), "training_spec", lambda spec: spec.model_copy(update=quiet)):
        yield
