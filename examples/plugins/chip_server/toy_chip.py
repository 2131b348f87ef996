"""A toy chip behind a socket: python toy_chip.py PORT [GAIN] [DELAY]. It multiplies, with a gain, after a delay in seconds."""

from __future__ import annotations

import socketserver
import sys
import time

import numpy as np
from chip_wire import read, write


class Toy(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        matrices: dict[str, np.ndarray] = {}
        waiting = None
        while True:
            try:
                head, numbers = read(self.file)
            except (ValueError, OSError):
                return
            if head["op"] == "matrix":
                matrices[head["matrix"]] = numbers
            else:
                waiting = numbers
            if head["matrix"] not in matrices:
                write(self.file, {"need": head["matrix"]})
                continue
            w = matrices[head["matrix"]]
            if waiting.shape[1:] != (w.shape[0], w.shape[2]):
                write(self.file, {"error": f"inputs {waiting.shape} do not fit the matrix {w.shape}"})
                continue
            time.sleep(DELAY)
            write(self.file, {}, GAIN * np.einsum("vtr,tor->vto", waiting, w))

    def setup(self) -> None:
        self.file = self.request.makefile("rwb")


if __name__ == "__main__":
    given = [float(v) for v in sys.argv[1:4]]
    port, GAIN, DELAY = given + [7007.0, 1.0, 0.0][len(given) :]
    with socketserver.ThreadingTCPServer(("127.0.0.1", int(port)), Toy) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
