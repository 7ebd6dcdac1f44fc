"""Which programs take a model with an hourglass, and which cannot."""

from wav2vec2.config import Architecture

WITH_HOURGLASS = ("onnxruntime", "torch.export", "sherpa-onnx", "transformers.js")
"""Programs that run a graph: any encoder."""

WITHOUT_HOURGLASS = ("transformers", "CTranslate2", "fairseq")
"""Programs that build the model from its configuration, and have the plain encoder only."""


def hourglass_note(architecture: Architecture) -> str:
    """The line, for the start of a run, on who can use the trained model; empty: plain encoder."""
    if architecture.hourglass is None:
        return ""
    return (
        f"note: hourglass {architecture.hourglass}: {', '.join(WITH_HOURGLASS)} can use this "
        f'model; {", ".join(WITHOUT_HOURGLASS)} cannot, they need HOURGLASS_CONFIG="" in '
        "pre-training"
    )
