"""All tests compute with one torch thread: two test processes with two threads each only wait for each other."""

import torch

torch.set_num_threads(1)
