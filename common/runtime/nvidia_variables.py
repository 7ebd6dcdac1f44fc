"""Variables of NVIDIA's wav2vec 2.0 recipe that no script here reads, and what to use instead.

A script here that reads a variable of that recipe gives it the same meaning.  For every other
variable that the script of the same name reads there, the tables below say what to use.  The names
are those of PyTorch/SpeechRecognition/wav2vec2/scripts in NVIDIA DeepLearningExamples at commit
729963d.
"""

from dataclasses import dataclass

from wav2vec2.cli.errors import UserError

OFF = ("false", "no", "off", "0", "0.0")


@dataclass(frozen=True)
class Unread:
    """A variable that a script does not read."""

    use: str
    """What to use instead."""
    same: tuple[str, ...] = ()
    """Values, in lower case, that ask for what the script does anyway."""
    note: bool = False
    """Only print `use`: the variable changes no result there either."""

    def check(self, script: str, name: str, value: str) -> str | None:
        """The note to print, if any; UserError for a value that would change the results."""
        if value.lower() in ("", *self.same):
            return None
        if self.note:
            return f"note: {name} is set; {self.use}"
        raise UserError(f"{name}={value}: {script} does not read this variable; {self.use}")


ARCHITECTURE = {
    "CONV_BIAS": ("false", "true"),
    "ENCODER_ATTENTION_HEADS": ("12", "16"),
    "ENCODER_EMBED_DIM": ("768", "1024"),
    "ENCODER_FFN_EMBED_DIM": ("3072", "4096"),
    "ENCODER_LAYERS": ("12", "24"),
    "EXTRACTOR_MODE": ("default", "layer_norm"),
    "FINAL_DIM": ("256", "768"),
    "LAYER_NORM_FIRST": ("false", "true"),
    "NORMALIZE": ("false", "true"),
}
"""Variable -> the value of Base, and of Large."""
MODELS = ("base", "large")

_ALWAYS_FP32 = "this is computed in fp32 in every precision (docs/numerics.md)"
_WEIGHTS_AND_ACTIVATIONS = (
    "choose the precision with BF16 or FP16; without them everything is fp32 (docs/numerics.md)"
)
_PROCESSES = "NUM_GPUS sets the processes of a machine, NUM_NODES the machines (docs/clusters.md)"

_TRAINING = {
    "ARGS": Unread("give flags of train.py after the script's name"),
    "CUDNN_BENCHMARK": Unread("for speed on GPUs, add --compile true after the name", OFF),
    "DISTRIBUTED": Unread(_PROCESSES),
    "FP32_CONV_NORMS": Unread(_ALWAYS_FP32, ("true", *OFF)),
    "FP32_COSINE_SIM": Unread(_ALWAYS_FP32, ("true", *OFF)),
    "FP32_MHA_SOFTMAX": Unread(_WEIGHTS_AND_ACTIVATIONS, OFF),
    "FP32_POS_CONV": Unread(_ALWAYS_FP32, ("true", *OFF)),
    "FP32_TRANSFORMER_LAYERNORM": Unread(_WEIGHTS_AND_ACTIVATIONS, OFF),
}
_PRETRAINING = {
    **_TRAINING,
    "LATENT_TEMP": Unread(
        "set GUMBEL_TEMPERATURE, for example GUMBEL_TEMPERATURE='2.0 0.5 0.999995'"
    ),
}
_FINETUNING = {
    **_TRAINING,
    "BATCH_SIZE": Unread(
        "MAX_TOKENS limits the audio samples of a sub-batch, for example MAX_TOKENS=3200000; "
        "utterances are not counted"
    ),
    "LAYERDROP": Unread("set ENCODER_LAYERDROP, for example ENCODER_LAYERDROP=0.05"),
}
_NOTHING_MASKED = Unread(
    "nothing is masked or drawn in an evaluation, so it changes nothing", note=True
)
_INFERENCE = {
    "AMP": Unread("set FP16=true", OFF),
    "ARGS": Unread("give flags of inference.py after the script's name"),
    "DATASET": Unread("it names no data; DATASET_DIR does", note=True),
    "DISTRIBUTED": Unread(_PROCESSES),
    "EMA": Unread("the weights of FINETUNED_MODEL are used as they are", OFF, note=True),
    "LOGITS_FILE": Unread(
        "add --save_log_probs true to scripts/inference.sh: one file per utterance in "
        "OUTPUT_DIR/log_probs"
    ),
    "LOG_FILE": Unread("the log is OUTPUT_DIR/nvlog.json; set OUTPUT_DIR"),
    "MASK_CHANNEL_PROB": _NOTHING_MASKED,
    "MASK_PROB": _NOTHING_MASKED,
    "MAX_DURATION": Unread(
        "all utterances are used; write a filelist without the longer ones and name it in SUBSETS"
    ),
    "NUM_STEPS": Unread("scripts/inference_benchmark.sh measures; set NUM_REPEATS there", OFF),
    "NUM_WARMUP_STEPS": Unread(
        "scripts/inference_benchmark.sh measures; set WARMUP or NUM_WARMUP_REPEATS there", OFF
    ),
    "PREDICTION_FILE": Unread(
        "hypotheses are in OUTPUT_DIR/hypotheses_<subset>.jsonl; set OUTPUT_DIR"
    ),
    "SEED": _NOTHING_MASKED,
    "TORCHSCRIPT": Unread(
        "convert the model with `python inference.py convert MODEL model.onnx --to onnx` and set "
        "FINETUNED_MODEL=model.onnx",
        OFF,
    ),
    "TORCHSCRIPT_SAVE": Unread(
        "write a graph with `python inference.py convert MODEL model.pt2 --to exported`", OFF
    ),
}
_BENCHMARK = {
    **{name: unread for name, unread in _INFERENCE.items() if not name.endswith("_STEPS")},
    "NUM_GPUS": Unread(
        "one process is measured; scripts/inference.sh shares an evaluation among NUM_GPUS", ("1",)
    ),
}


def unread_variables(script: str, model: str) -> dict[str, Unread]:
    """The variables that NVIDIA's script of the name `script`, without .sh, reads and ours may not.

    `model`: the value of MODEL, which says what the variables of the architecture must be.
    """
    if script.startswith("pretrain_"):
        names = {name: dict(zip(MODELS, values)) for name, values in ARCHITECTURE.items()}
        return _PRETRAINING | {name: _fixed(by.get(model), model) for name, by in names.items()}
    if script.startswith("finetune_"):
        return _FINETUNING
    return {"inference": _INFERENCE, "inference_benchmark": _BENCHMARK}.get(script, {})


def _fixed(value: str | None, model: str) -> Unread:
    """A variable of the architecture, of which `model` has `value`."""
    has = f"MODEL={model} has {value}; " if value else ""
    return Unread(
        f"{has}MODEL chooses base, large or mini, or with MODEL=auto the architecture of INIT_FROM",
        (value,) if value else (),
    )
