"""When a kernel must fall back to plain torch."""

import torch


def needs_plain_torch() -> bool:
    """Whether the model is being traced, or runs under autocast.

    A compiler or exporter can only trace plain torch.  Autocast changes only torch's own operators.
    """
    return torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
