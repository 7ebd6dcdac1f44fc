"""Fine-tuning of few weights: LoRA or adapter layers beside a start that stays as it is."""

import sys
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch

from wav2vec2.cli.errors import UserError
from wav2vec2.cli.flags import require_at_least
from wav2vec2.config import Architecture
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.encoder import Adapter

Target = Literal["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
"""Linear layers of a transformer layer: attention, then feed-forward."""

OUTPUT = "proj."
"""Prefix of the output layer's weights, which are always trained."""


@dataclass(frozen=True)
class AdaptOptions:
    """Fine-tuning of few weights"""

    adapt: Literal["none", "lora", "adapters"] = "none"
    """What to train beside the output layer.  none: all weights; lora: small matrices beside linear
    layers (needs peft); adapters: a small layer after each transformer layer, as in MMS.  The
    checkpoint then holds these weights and a reference to the start."""
    lora_rank: int = 8
    """Rank of LoRA's matrices."""
    lora_alpha: float = 16.0
    """LoRA's product is multiplied by this and divided by the rank."""
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Linear layers of each transformer layer that LoRA changes: q_proj, k_proj, v_proj, out_proj,
    fc1, fc2."""
    adapter_dim: int = 16
    """Inner width of the adapter layers."""

    def __post_init__(self) -> None:
        require_at_least(self, lora_rank=1, adapter_dim=1)
        if not 0 < self.lora_alpha < float("inf"):
            raise UserError(f"--lora_alpha {self.lora_alpha}: must be greater than 0")
        known = get_args(Target)
        unknown = [name for name in self.lora_targets if name not in known]
        if unknown or not self.lora_targets:
            raise UserError(
                f"--lora_targets {' '.join(self.lora_targets) or 'none'}: give one or more of "
                f"{' '.join(known)}"
            )

    def settings(self) -> dict[str, Any]:
        """The part of a recipe, in plain types; older runs have none of it."""
        if self.adapt == "lora":
            targets = sorted(set(self.lora_targets))
            return {
                "adapt": self.adapt,
                "lora_rank": self.lora_rank,
                "lora_alpha": self.lora_alpha,
                "lora_targets": targets,
            }
        return {"adapt": None if self.adapt == "none" else self.adapt}

    def described(self) -> dict[str, Any]:
        """What a checkpoint says of the difference that it holds."""
        sizes = {"rank": self.lora_rank, "alpha": float(self.lora_alpha)}
        return {"kind": self.adapt, **(sizes if self.adapt == "lora" else {})}

    def architecture(
        self, start: Architecture, content: dict[str, Any], source: str
    ) -> Architecture:
        """The architecture to train from a start's, whose content is `content`; UserError if the
        start cannot be adapted in this way."""
        if self.adapt == "none":
            return start
        if self.adapt == "lora" and start.adapter_dim:
            raise UserError(
                f"--adapt lora: {source} already has adapter layers; choose --adapt adapters "
                f"--adapter_dim {start.adapter_dim} (ADAPT, ADAPTER_DIM), or --adapt none"
            )
        if self.adapt == "adapters":
            if content.get("merged") == "lora":
                raise UserError(
                    f"--adapt adapters: {source} already has LoRA; choose --adapt lora (ADAPT), or "
                    f"merge it first: python -m utils.checkpoints.convert {source} merged.pt --to "
                    "native --merge"
                )
            if start.adapter_dim not in (None, self.adapter_dim):
                raise UserError(
                    f"--adapter_dim {self.adapter_dim}: the adapter layers of {source} have "
                    f"{start.adapter_dim}; give that (ADAPTER_DIM)"
                )
            if not start.norm_first:
                raise UserError(
                    f"--adapt adapters: {source} is a post-LN model, such as Base; adapter layers "
                    "need pre-LN, as XLS-R, MMS and Large have; choose --adapt lora (ADAPT)"
                )
            return replace(start, adapter_dim=self.adapter_dim)
        return start


def new_adapters(model: Wav2Vec2ForCTC) -> dict[str, torch.Tensor]:
    """New weights for a model's adapter layers, by name, which change nothing yet."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, Adapter):
            new = Adapter(module.linear_1.in_features, module.linear_1.out_features)
            torch.nn.init.zeros_(new.linear_2.weight)
            found |= {f"{name}.{n}": tensor for n, tensor in new.state_dict().items()}
    return found


def freeze_start(model: Wav2Vec2ForCTC, options: AdaptOptions) -> set[str] | None:
    """Freeze all of `model` but what --adapt trains, which is added if it is LoRA.

    Returns the names of the trained parameters; None: all.  A new LoRA changes nothing yet.
    UserError if peft is missing.
    """
    if options.adapt == "none":
        return None
    if options.adapt == "lora":
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError:
            raise UserError(
                "--adapt lora: needs the Python package peft; install it: "
                f"{sys.executable} -m pip install peft; or choose --adapt adapters"
            ) from None
        lora = LoraConfig(
            r=options.lora_rank,
            lora_alpha=options.lora_alpha,
            target_modules=list(options.lora_targets),
        )
        inject_adapter_in_model(lora, model)
    part = ".lora_" if options.adapt == "lora" else ".adapter."
    trained = {n for n, _ in model.named_parameters() if part in n or n.startswith(OUTPUT)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    return trained
