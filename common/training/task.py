"""What the training loop needs of a task, and what a task hands back."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from common.data.batching import BatchPlan
from common.data.dataset import TrainingBatch, UtteranceDataset
from common.training.meter import Sums, Totals


@dataclass
class MicroBatchResult:
    """What the forward pass of a micro-batch gives."""

    loss: Tensor
    """Scalar, summed (not averaged) over the micro-batch's targets."""
    targets: int
    """What the gradient is divided by, summed over the whole update: masked frames in
    pre-training, utterances in fine-tuning."""
    tokens: int
    """What throughput is reported in: masked frames in pre-training, labels in fine-tuning."""
    frames: int
    """Valid frames of the batch."""
    audio_seconds: float
    """Audio of the batch, without padding."""
    sums: dict[str, Tensor | float] = field(default_factory=dict)
    """The task's own measures, summed over the batch."""


class Task(Protocol):
    """A model with its data, objective and metrics."""

    model: torch.nn.Module
    trained: Collection[str] | None
    """Names of the parameters that learn and that checkpoints store; None: all."""
    plan: BatchPlan
    dataset: UtteranceDataset
    selection: str
    """The validation metric that is stored as the result of the best checkpoint."""
    console: Mapping[str, str]
    """The metrics to show on the console, in order, and what to call them there."""
    file_prefix: str
    """Begins the names of checkpoint files."""
    memory_hint: str
    """What to change when memory runs out; completes an error message."""
    probe_frequency: int
    """Updates between two probes; 0: none."""
    recipe: dict[str, Any]
    """Everything that defines the training, in plain types: a resume must agree with it."""

    def begin_update(self, update: int) -> None:
        """Prepare the model for update `update`, counted from 1."""

    def forward(self, batch: TrainingBatch, update: int) -> MicroBatchResult:
        """Loss and measures of a batch on the model's device."""

    def summarise(self, totals: Totals) -> dict[str, float]:
        """Sums over some updates and all processes -> the task's metrics, without prefix."""

    def collapse_reason(self, totals: Totals) -> str | None:
        """Sums over some updates -> why training is pointless, None if it is not."""

    def problem(self, totals: Totals, warmed_up: bool) -> str | None:
        """Sums over some updates, and whether the learning rate's warm-up was over before them ->
        what is wrong and how to fix it, None if nothing is worth a warning."""

    def validate(self, sums: Sums) -> None:
        """Add this process' share of the validation set to `sums`, without communicating."""

    def summarise_validation(self, sums: dict[str, Any]) -> dict[str, float]:
        """What `validate` summed, over all processes -> the metrics to report."""

    def probe(self) -> dict[str, float]:
        """Unit error rates of a small recogniser, percent, by what it learns from: the layers of
        the model as it is, then what they compare with.  Called in one process; changes nothing."""

    def rank(self, validation: Mapping[str, float]) -> tuple[float, ...]:
        """Metrics of a validation, of which only `selection` must be there -> what orders
        validations: the best checkpoint is the one whose rank is lowest."""

    def checkpoint_content(self) -> dict[str, Any]:
        """What makes a checkpoint usable on its own: architecture, dictionary, ..."""
