"""What mho and the chip say to each other; without torch, so that a server starts at once.

A message is a line of JSON and, where it says so, float32 numbers behind it:

    -> {"op": "product", "matrix": DIGEST, "shape": [vector, tile, row]} numbers
    <- {"need": DIGEST}                                    the server does not hold this matrix yet
    -> {"op": "matrix", "matrix": DIGEST, "shape": [tile, out, row]} numbers
    <- {"shape": [vector, tile, out]} numbers              or {"error": TEXT}
"""

from __future__ import annotations

import json
import math
from typing import Any, BinaryIO

import numpy as np


def write(file: BinaryIO, head: dict[str, Any], numbers: np.ndarray | None = None) -> None:
    if numbers is not None:
        head = {**head, "shape": list(numbers.shape)}
    file.write(json.dumps(head).encode() + b"\n")
    if numbers is not None:
        file.write(np.ascontiguousarray(numbers, "<f4").tobytes())
    file.flush()


def read(file: BinaryIO) -> tuple[dict[str, Any], np.ndarray | None]:
    """Raises `ValueError` where the other side has hung up."""
    line = file.readline()
    if not line.endswith(b"\n"):
        raise ValueError("the connection was closed")
    head = json.loads(line)
    if "shape" not in head:
        return head, None
    count = math.prod(head["shape"])
    data = file.read(4 * count)
    if len(data) < 4 * count:
        raise ValueError("the connection was closed")
    return head, np.frombuffer(data, "<f4").reshape(head["shape"]).copy()
