"""The table of docs/finetune_memory.md: what fine-tuning holds, by model and by what learns.

python -m utils.benchmarks.largest_batch --finetune
"""

from tasks.adaptation import AdaptOptions
from utils.finetuning.memory import (
    MODELS,
    Method,
    Model,
    bytes_per_sample,
    count_bytes,
    held,
    largest_sub_batch,
)
from utils.finetuning.values import SAMPLE_RATE
from utils.gpu_report.memory import CONTEXT
from utils.reporting.tables import Table

SECONDS = 30
"""Audio whose activations are shown."""

CARD = 24
"""GB of a GPU for which the largest sub-batch is shown."""

LEARNS = {
    "all": AdaptOptions(),
    "LoRA": AdaptOptions(adapt="lora"),
    "adapters": AdaptOptions(adapt="adapters"),
}


def memory_table(half: bool) -> Table:
    """MiB by model and method, with the defaults of LoRA and adapters; `half`: in bf16.

    Parameters, gradients and optimizer state are counted, activations computed.  UserError if peft
    is missing.
    """
    rows = []
    for name, architecture in MODELS.items():
        parameters = count_bytes(architecture, Method(half)).total
        model = Model(architecture, parameters)
        for learns, adapt in LEARNS.items():
            methods = [
                Method(half, recompute, adapt, optimizer)
                for recompute, optimizer in ((False, "adam"), (True, "adam8bit"))
            ]
            counted, small = (count_bytes(architecture, method) for method in methods)
            samples = SECONDS * SAMPLE_RATE
            whole, recomputed = (samples * bytes_per_sample(architecture, m) for m in methods)
            beside = counted.parameters + counted.gradients
            most, least = (
                CONTEXT * 2**20 + max(beside + state.optimizer + active, held(model, method)[1])
                for state, active, method in zip((counted, small), (whole, recomputed), methods)
            )
            figures = [counted.parameters, counted.gradients, counted.optimizer, small.optimizer]
            figures += [whole, recomputed, most, least]
            card = CARD * 1e9 / 2**20
            sizes = [largest_sub_batch(model, card, method) // SAMPLE_RATE for method in methods]
            rows.append(
                [
                    name,
                    learns,
                    f"{counted.learning / 1e6:,.1f}",
                    *(f"{figure / 2**20:,.0f}" for figure in figures),
                    " / ".join(f"{size:,}" if size else "none" for size in sizes),
                    "computed",
                ]
            )
    precision = "bf16" if half else "fp32"
    return Table(
        f"Memory of fine-tuning in {precision}, MiB per process",
        [
            *("model", "learns", "millions", "parameters", "gradients", "Adam", "8-bit Adam"),
            *(f"activations of {SECONDS} s", "with checkpointing", "most", "least"),
            *(f"sub-batch in {CARD} GB, s", ""),
        ],
        rows,
    )
