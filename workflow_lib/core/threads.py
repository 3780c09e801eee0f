"""Threads of a computation: they are part of a result, to the last bit."""

from __future__ import annotations

import os


def use_threads(count: int) -> None:
    """Set the number of threads; call it before anything else imports torch."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    import torch

    torch.set_num_threads(count)
    # CHGNet's shipped weights drive activations into denormals, which slow a CPU down by a factor.
    torch.set_flush_denormal(True)
