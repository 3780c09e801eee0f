"""Number of threads of a computation, which affects a result in its last bits."""

from __future__ import annotations

import os


def use_threads(count: int) -> None:
    """Set the number of threads; call it before anything else imports torch."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    import torch

    torch.set_num_threads(count)
    # CHGNet's shipped weights produce denormal activations, which slow a CPU down several times.
    torch.set_flush_denormal(True)
