"""A chip elsewhere as a back end: the product of every tile is computed by another process, over a socket.

The chip is an effect with `mvm`, so mapping, converters, scales, calibration, evaluation and reports stay those of mho, and only
the analog product leaves the house. `toy_chip.py` is a server to try it with; a laboratory replaces it by its own.

`chip_wire.py` has the words that they exchange.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
from typing import Any

import numpy as np
import torch
from chip_wire import read, write
from torch import Tensor

from mho import Field, Nonideality, Site, hookimpl
from mho.config import Seconds
from mho.ground import MhoError


class ChipServer(Nonideality, kind="chipserver.product"):
    """Products are computed by the chip behind a socket: y = W x as it answers, whatever it does.

    What it answers has no derivative here, so training needs `backward: {mode: ste}`. Results are reproducible as far as the
    chip is. A server that is gone stops the run with a message; whatever was measured before is kept, and the same command
    goes on from there.
    """

    source = "the chip that answers"
    strength = None
    # What a process elsewhere cannot do, said once with its reason: `mho test` and the test file both honour it.
    expected_failed_checks = dict.fromkeys(
        (
            "gradient_reaches_the_weights", "gradient_reaches_the_inputs", "gradients_are_finite_at_zero", "trains",
            "works_under_vmap", "compiles_with_a_chip", "compiles_in_training",
            "never_waits_for_an_accelerator",
        ),
        "the product is computed outside of torch; train with backward: {mode: ste}",
    )  # fmt: skip

    host: str = Field("127.0.0.1", min_length=1, description="where the server is", source="mho")
    port: int = Field(7007, ge=1, le=65535, unit="1", description="its port", source="mho")
    timeout: Seconds = Field(5.0, gt=0, description="longest silence before the run stops", source="mho")

    def mvm(self, x: Tensor, w: Tensor, site: Site) -> Tensor:
        """x [..., tile, row], w [tile, out, row] -> [..., tile, out]."""
        vectors = x.detach().float().reshape(-1, *x.shape[-2:])
        y = Connection.to(self.host, self.port, self.timeout).product(vectors.cpu().numpy(), w.detach().float().cpu().numpy())
        return torch.from_numpy(y).to(x).reshape(*x.shape[:-1], w.shape[-2])


class Connection:
    """One socket for each server, opened when it is needed and forgotten when something goes wrong."""

    open: dict[tuple[str, int, float], Connection] = {}

    def __init__(self, where: tuple[str, int, float]) -> None:
        host, port, timeout = self.where = where
        try:
            self.socket = socket.create_connection((host, port), timeout)
        except OSError as e:
            raise MhoError(f"no chip server answers at {host}:{port} ({e}); start it, or correct host and port") from None
        self.file = self.socket.makefile("rwb")

    @classmethod
    def to(cls, *where: Any) -> Connection:
        if where not in cls.open:
            cls.open[where] = cls(where)
        return cls.open[where]

    def product(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Raises `MhoError` for a server that is silent, gone or confused."""
        host, port, timeout = self.where
        digest = hashlib.blake2b(w.tobytes(), digest_size=16).hexdigest()
        try:
            answer, y = self.asked({"op": "product", "matrix": digest}, x)
            if answer.get("need") == digest:
                answer, y = self.asked({"op": "matrix", "matrix": digest}, w)
            if "error" in answer:
                raise MhoError(f"the chip server at {host}:{port} refuses: {answer['error']}")
            if y is None or y.shape != (len(x), *w.shape[:2]) or not np.isfinite(y).all():
                raise MhoError(f"the chip server at {host}:{port} gave no {(len(x), *w.shape[:2])} finite numbers: {answer}")
            return y
        except TimeoutError:
            self.forget()
            raise MhoError(
                f"the chip server at {host}:{port} was silent for {timeout:g} s; raise timeout, or look after it"
            ) from None
        except (OSError, ValueError) as e:
            self.forget()
            raise MhoError(
                f"the chip server at {host}:{port} went away in the middle of a product ({e}); what was measured before is "
                "kept: start it again and repeat the command"
            ) from None

    def asked(self, head: dict[str, Any], numbers: np.ndarray) -> tuple[dict[str, Any], np.ndarray | None]:
        write(self.file, head, numbers)
        return read(self.file)

    def forget(self) -> None:
        with contextlib.suppress(OSError):  # what was not sent yet has nowhere to go
            self.file.close()
        self.socket.close()
        Connection.open.pop(self.where, None)


@hookimpl
def mho_nonidealities() -> list[type[Nonideality]]:
    return [ChipServer]
