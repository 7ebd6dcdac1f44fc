"""Flags of other toolkits, in the words of this one.

A synonym is accepted where it means exactly the same; otherwise an error names the flag to use.
"""

from collections.abc import Collection

BOOLS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
"""Words for true and false, in lower case."""

RENAMED = {
    "beam_size": ("beam",),
    "data": ("dataset_dir",),
    "data_dir": ("dataset_dir",),
    "encoder_layerdrop": ("layerdrop",),
    "gradient_accumulation_steps": ("update_freq",),
    "hourglass_resample": ("hourglass_resampling",),
    "hourglass_transformer": ("hourglass_config",),
    "latent_temp": ("gumbel_temperature",),
    "logit_temp": ("logit_temperature",),
    "lr": ("learning_rate",),
    "lr_poly_power": ("power",),
    "mask_channel_length": ("mask_channel_span",),
    "mask_length": ("mask_span",),
    "max_steps": ("max_update",),
    "model": ("checkpoint",),
    "model_name_or_path": ("checkpoint", "pretrained_model"),
    "num_negatives": ("distractors",),
    "output_format": ("format",),
    "valid_subset": ("subset",),
    "w2v_path": ("checkpoint", "pretrained_model"),
    "warmup_steps": ("warmup_updates",),
}
"""Name elsewhere -> our flag of the same meaning, or several of which a command has one."""

_BATCH = (
    "training fills each sub-batch up to --max_tokens samples of audio, and runs "
    "--num_concat_batches of them at once; set these"
)
_EPOCHS = "the length of training is set in updates; use --max_update"
_RESUME = (
    "a run resumes automatically from the last checkpoint in its --output_dir; remove the flag"
)
_FILES = (
    "give recordings to the command transcribe: inference.py transcribe --checkpoint MODEL FILE"
)
_GPUS = "recipes take the variable NUM_GPUS: NUM_GPUS=4 bash scripts/pretrain_base.sh"

HINTS = {
    **dict.fromkeys(
        ("batch_size", "per_device_train_batch_size", "train_batch_size"), ("max_tokens", _BATCH)
    ),
    **dict.fromkeys(
        ("epochs", "num_epochs", "num_train_epochs", "max_epoch"), ("max_update", _EPOCHS)
    ),
    **dict.fromkeys(("resume", "resume_from_checkpoint", "restore_file"), ("max_update", _RESUME)),
    **dict.fromkeys(("transcribe_wav", "transcribe_filelist"), ("save_log_probs", _FILES)),
    **dict.fromkeys(("gpus", "num_gpus", "devices", "nproc_per_node"), ("max_update", _GPUS)),
    "amp": ("precision", "use --precision fp16"),
    "save_logits": ("save_log_probs", "use --save_log_probs true: one file per utterance"),
    "save_predictions": (
        "save_log_probs",
        "hypotheses are in <output_dir>/hypotheses_<subset>.jsonl",
    ),
    "word_timestamps": ("format", "--format json has the times of words; use it"),
}
"""Name elsewhere -> (a flag that the command must have, what to do instead)."""

PRECISIONS = ("fp32", "fp16", "bf16")


def our_flags(name: str, value: str | None, known: Collection[str]) -> tuple[list[str], bool]:
    """The flags that mean `--name value` here, and whether `value` is part of them.

    `known`: names of the command's flags.  No flags if the name means nothing to the command.
    ValueError, with a message, for a flag that has no equal.
    """
    for ours in RENAMED.get(name, ()):
        if ours in known:
            return [f"--{ours}"], False
    if name in PRECISIONS and "precision" in known:
        wanted = BOOLS.get((value or "").lower())
        if wanted is False:
            raise ValueError(
                f"--{name} {value}: use --precision with one of {', '.join(PRECISIONS)}"
            )
        return ["--precision", name], wanted is not None
    if name == "device" and "cpu" in known:
        if value == "cpu":
            return ["--cpu", "true"], True
        if (value or "").startswith("cuda"):
            raise ValueError(f"--device {value}: a GPU is used if there is one; remove the flag")
        raise ValueError("--device: use --cpu for the CPU; a GPU is used if there is one")
    needed, hint = HINTS.get(name, ("", ""))
    if needed in known:
        raise ValueError(f"--{name}: {hint}")
    return [], False
