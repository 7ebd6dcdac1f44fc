"""When a kernel gives way to plain torch."""

import torch


def plain_wanted() -> bool:
    """Whether the model is being traced, or runs under autocast.

    Compilers and exporters see through plain torch only, and autocast acts on its operators only.
    """
    return torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
