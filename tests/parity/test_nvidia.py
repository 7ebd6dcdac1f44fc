"""The public sources of NVIDIA's recipe, run on a CPU: both sides compute the same numbers.

    REFERENCE_DIR=DeepLearningExamples/PyTorch/SpeechRecognition/wav2vec2 \\
        python -m pytest -s tests/parity/test_nvidia.py

prints the largest differences.  The sources run in a process of their own (nvidia_side.py).
"""

import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from common.training.optimizer import OptimizerOptions
from common.training.precision import Weights
from common.training.schedule import ScheduleOptions
from common.training.step import UpdateStep
from common.training.task import MicroBatchResult
from wav2vec2 import kernels, quantizer
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.config import ContrastiveObjective, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC, ctc_loss
from wav2vec2.decoding.greedy import GreedyDecoder
from wav2vec2.files.filelists import read_manifest, write_manifest
from wav2vec2.files.output import write_lines
from wav2vec2.inference.recogniser import Recogniser
from wav2vec2.interop import checkpoints, native
from wav2vec2.pretraining import PretrainingBatch, SubBatch, Wav2Vec2ForPretraining
from wav2vec2.quantizer import gumbel_temperature

SIDE = Path(__file__).with_name("nvidia_side.py")
REFERENCE = os.environ.get("REFERENCE_DIR", "")
pytestmark = pytest.mark.skipif(
    not REFERENCE,
    reason="REFERENCE_DIR names no checkout of NVIDIA DeepLearningExamples' "
    "PyTorch/SpeechRecognition/wav2vec2",
)

SIZES = ["base_hourglass", "base_linear", "base_4_layers", "large_2_layers"]
UPDATES, FREEZE, ACCUMULATE = 30, 10, 2
MAX_UPDATE = UPDATES + 1
"""Of their runs: with accumulation their loop ends in the middle of the last update."""
LAST = f"wav2vec2_update{MAX_UPDATE}.pt"
NO_DROPOUT = {
    "dropout": 0.0,
    "dropout_input": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "layerdrop": 0.0,
}
CPU = torch.device("cpu")


def run_reference(records: Path, program: str, *arguments: str) -> dict:
    """Run a program of the sources; returns its records."""
    sources = Path(REFERENCE).resolve()
    assert (sources / "wav2vec2" / "model.py").is_file(), f"REFERENCE_DIR={REFERENCE}: no sources"
    result = subprocess.run(
        [sys.executable, str(SIDE), str(sources), str(records), program]
        + [str(argument) for argument in arguments],
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    return torch.load(records, weights_only=False)


def figure(what: str, value: float, bound: float) -> None:
    """Print a difference and hold its bound."""
    print(f"{what:60} {value:.1e}  (bound {bound:.0e})")
    assert value <= bound, what


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, relative to the largest value; infinite ones must agree."""
    finite = theirs.isfinite()
    assert torch.equal(ours[~finite], theirs[~finite])
    return float((ours - theirs)[finite].abs().max() / theirs[finite].abs().max())


def compare_tensors(what, ours: dict, theirs: dict, bound: float) -> None:
    """Per tensor, the norm of the difference relative to the tensor's norm, or, for tensors that
    are zero but for rounding, to a millionth of the norm of all."""
    assert ours.keys() == theirs.keys()
    total = torch.stack([t.norm() for t in theirs.values()]).norm()
    worst = max(
        float((ours[name] - t).norm() / max(t.norm(), 1e-6 * total)) for name, t in theirs.items()
    )
    figure(f"{what}, worst of {len(ours)} tensors", worst, bound)


def objective_of(content) -> ContrastiveObjective:
    args = content["args"]
    return ContrastiveObjective(
        dropout_features=0.0,
        distractors=args["num_negatives"],
        loss_weights=tuple(args["loss_weights"]),
        gumbel_temperature=tuple(args["latent_temp"]),
    )


def batch_of(step: dict, distractors: int) -> PretrainingBatch:
    """A recorded training step's batch, with its masks and distractors."""
    (mask,), (negatives,) = step["masks"], step["negatives"]
    rows, frames = len(mask), int(mask[0].sum())
    masked = torch.stack([row.nonzero()[:, 0] for row in mask])
    drawn = negatives.view(rows, frames, distractors) - frames * torch.arange(rows)[:, None, None]
    return PretrainingBatch(step["source"], [SubBatch(masked, drawn, noise_seed=0)])


def pretraining_model(path: Path, feature_grad_mult: float) -> Wav2Vec2ForPretraining:
    """Our model with the weights of their checkpoint."""
    content = checkpoints.read_checkpoint(path)
    architecture = native.architecture_of(content, str(path))
    regularisation = Regularisation(**NO_DROPOUT, feature_grad_mult=feature_grad_mult)
    theirs = torch.load(path, weights_only=False)
    model = Wav2Vec2ForPretraining.from_config(architecture, regularisation, objective_of(theirs))
    native.load_pretraining(model, content, str(path), architecture)
    kernels.install(model, CPU)
    return model


@pytest.fixture
def noise(monkeypatch):
    """Lets the quantizer take the Gumbel noise of a recorded step."""

    def take(step: dict) -> None:
        (drawn,) = step["noise"]
        monkeypatch.setattr(quantizer, "sample_gumbel", lambda like, _: drawn.view_as(like))

    return take


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Checkpoints and results of models of the recipe's sizes."""
    folder = tmp_path_factory.mktemp("models")
    return folder, run_reference(folder / "records", "models")


@pytest.mark.parametrize("size", SIZES)
def test_models(models, noise, size):
    folder, _ = models
    theirs = torch.load(folder / f"{size}.outputs", weights_only=False)
    step = theirs["step"]
    args = torch.load(folder / f"{size}.pt", weights_only=False)["args"]
    model = pretraining_model(folder / f"{size}.pt", args["feature_grad_mult"])
    with torch.no_grad():
        frames = model.eval().wav2vec2.extract(step["source"], None)
        context = model.wav2vec2.encode(frames)
    figure(f"{size}: encoder output", difference(context, theirs["context"]), 1e-4)
    noise(step)
    batch = batch_of(step, args["num_negatives"])
    temperature = args["latent_temp"][0]  # before their first update
    output = model.train()(batch, temperature=temperature)
    log = step["log"]
    for name, ours, expected in [
        ("loss", output.loss, log["loss"]),
        ("contrastive loss", output.contrastive_loss, log["loss_0"]),
        ("diversity loss", output.diversity_loss, log["loss_1"]),
        ("features penalty", output.features_penalty, log.get("loss_2", 0.0)),
        ("code perplexity", output.code_perplexity, log["code_perplexity"]),
        ("prob perplexity", output.prob_perplexity, log["prob_perplexity"]),
    ]:
        apart, scale = abs(ours.item() - float(expected)), abs(float(expected))
        figure(f"{size}: {name}", apart / scale if scale else apart, 1e-5)
    assert (int(output.correct), output.targets) == (log["correct"], log["ntokens"])
    output.loss.backward()
    ours = {name: p.grad for name, p in model.named_parameters()}
    found = checkpoints.read_checkpoint(folder / f"{size}_gradients.pt")["model"]
    compare_tensors(f"{size}: gradient", ours, found, 2e-3)
    recogniser, _ = native.load_ctc(checkpoints.read_checkpoint(folder / f"{size}_ctc.pt"), size)
    with torch.no_grad():
        logits = recogniser.eval()(step["source"]).logits
    figure(f"{size}: CTC logits", difference(logits, theirs["logits"]), 1e-4)


def test_learning_rates(models):
    """All but the first of a fine-tuning, which is a hundredth of the peak here."""
    _, records = models
    polynomial = ScheduleOptions(learning_rate=5e-4, max_update=200, warmup_updates=40).function()
    three_stage = ScheduleOptions(
        learning_rate=3e-5,
        schedule="three_stage",
        max_update=200,
        warmup_updates=20,
        hold_updates=80,
    ).function()
    for name, function, first in (("polynomial", polynomial, 0), ("three_stage", three_stage, 1)):
        theirs = records["rates"][name]
        ours = [function(update) for update in range(1, 201)]
        np.testing.assert_allclose(ours[first:], theirs[first:], rtol=1e-12, err_msg=name)
    assert records["rates"]["three_stage"][0] == records["rates"]["three_stage"][1]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Recordings of half a second to a second, `even` ones of equal length, with labels."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    for subset, count in (("train", 24), ("even", 24), ("valid", 6)):
        files, words = [], []
        for number in range(count):
            samples = 12_000 if subset == "even" else int(generator.integers(9_000, 16_000))
            times = np.arange(samples) / SAMPLE_RATE
            audio = 0.3 * np.sin(2 * np.pi * (200 + 40 * number) * times)
            audio += 0.05 * generator.standard_normal(samples)
            name = f"{subset}{number:03d}.flac"
            soundfile.write(folder / name, audio, SAMPLE_RATE, subtype="PCM_16")
            files.append((name, samples))
            words.append(" ".join(generator.choice(["TEN", "NOT", "EAT", "A"], 3)))
        write_manifest(folder, subset, folder, files)
        letters = [" ".join(f"{text} ".replace(" ", "|")) for text in words]
        write_lines(folder / f"{subset}.ltr", letters)
        write_lines(folder / f"{subset}.wrd", words)
    write_lines(folder / "dict.ltr.txt", [f"{symbol} 5" for symbol in "|ETAON"])
    return folder


COMMON = f"""--valid_subset valid --num_workers 0 --max_update {MAX_UPDATE} --log_frequency 1 --cpu
    --required_batch_size_multiple 1 --update_freq {ACCUMULATE} --dropout 0 --dropout_input 0
    --dropout_features 0 --attention_dropout 0 --activation_dropout 0 --encoder_layerdrop 0
    --mha pyt --max_tokens_valid 40000 --seed 3 --save_frequency 1"""
PRETRAIN = """--train_subset train --max_tokens 40000 --min_sample_size 8000 --max_sample_size 12000
    --encoder_layers 4 --encoder_embed_dim 48 --encoder_ffn_embed_dim 96 --conv_pos 16
    --encoder_attention_heads 4 --conv_pos_groups 4 --latent_vars 20 --final_dim 32
    --conv_feature_layers [(32,10,5)]+[(32,3,2)]*4+[(32,2,2)]*2 --infonce --quantize_targets
    --hourglass_transformer [1,(2,2),1] --num_negatives 20 --loss_weights 0.1 10.0
    --mask_prob 0.65 --feature_grad_mult 0.1 --lr 0.0005 --warmup_updates 10 --lr_policy poly
    --weight_decay 0.01"""
FINETUNE = f"""--train_subset even --max_tokens 50000 --labels ltr --apply_mask --mask_prob 0.5
    --mask_channel_prob 0.3 --mask_channel_length 8 --feature_grad_mult 0.0 --lr 0.0005
    --lr_policy exp --initial_lr_scale 0.01 --final_lr_scale 0.05 --warmup_updates 3
    --hold_updates 12 --weight_decay 0.0 --adam_eps 1e-8
    --freeze_finetune_updates {FREEZE}"""


@pytest.fixture(scope="module")
def pretrain(corpus, tmp_path_factory):
    """Their pre-training with an epsilon of the optimizer: its folder and records."""
    runs: dict[float, tuple[Path, dict]] = {}

    def pretrain(eps: float):
        if eps not in runs:
            folder = tmp_path_factory.mktemp("pretrain")
            flags = ["--data", corpus, "--output_dir", folder / "run", "--adam_eps", eps]
            flags += f"{PRETRAIN} {COMMON}".split()
            runs[eps] = folder, run_reference(folder / "records", "train.py", "pretrain", *flags)
        return runs[eps]

    return pretrain


@pytest.fixture(scope="module")
def finetuned(corpus, pretrain, tmp_path_factory):
    """Their fine-tuning of that model: its folder and records."""
    folder = tmp_path_factory.mktemp("finetune")
    start = pretrain(1e-6)[0] / "run" / LAST
    flags = ["--data", corpus, "--output_dir", folder / "run", "--w2v_path", start]
    flags += f"{FINETUNE} {COMMON}".split()
    records = run_reference(folder / "records", "train.py", "finetune", *flags)
    return folder, records


def with_state(folder: Path, name: str, state: dict) -> Path:
    """A checkpoint like the last one of their run in `folder`, with other tensors."""
    content = torch.load(folder / "run" / LAST, weights_only=False)
    path = folder / f"{name}.pt"
    torch.save({**content, "model": state}, path)
    return path


def train(model, forward, steps, options, schedule, before=lambda update: None):
    """Train our model on recorded steps; returns each step's loss and the first gradients."""
    weights = Weights(model.train())
    step = UpdateStep(weights, options.build(weights.parameters()), CPU)
    losses, rates, first = [], [], {}
    remaining = iter(steps)
    for update in range(1, UPDATES + 1):
        before(update)

        def measured(recorded, update=update):
            result = forward(recorded, update)
            losses.append(float(result.loss.detach()))
            return result

        rates.append(schedule(update))
        step.run(islice(remaining, ACCUMULATE), measured, rates[-1])
        if not first:
            first = {
                n: torch.zeros_like(p) if p.grad is None else p.grad.clone()
                for n, p in model.named_parameters()
            }
    return losses, rates, first


def result_of(loss, targets):
    return MicroBatchResult(loss, targets, tokens=targets, frames=0, audio_seconds=0.0)


def compare_losses(what: str, ours: list[float], steps: list[dict], bound: float) -> None:
    theirs = [step["loss"] for step in steps]
    del theirs[UPDATES * ACCUMULATE :]
    assert len(ours) == len(theirs) == UPDATES * ACCUMULATE
    relative = np.abs(np.array(ours) / np.array(theirs) - 1)
    figure(f"{what}: losses of update 1", relative[:ACCUMULATE].max(), 1e-5)
    figure(f"{what}: losses of {UPDATES} updates, largest", relative.max(), bound)
    assert abs(theirs[-1] / theirs[0] - 1) > 10 * relative.max()  # the loss has changed by more


# Theirs adds epsilon before the second moment's bias is corrected.  With a negligible epsilon both
# are the same; with the recipe's the losses drift apart where gradients are as small.
@pytest.mark.parametrize(("eps", "bound"), [(1e-12, 1e-5), (1e-6, 1e-2)])
def test_30_updates_of_pretraining(pretrain, noise, eps, bound):
    folder, records = pretrain(eps)
    args = torch.load(folder / "run" / LAST, weights_only=False)["args"]
    start = with_state(folder, "initial", records["initial"])
    model = pretraining_model(start, args["feature_grad_mult"])
    objective = objective_of({"args": args})

    def forward(step, update):
        noise(step)
        temperature = gumbel_temperature(update, MAX_UPDATE, *objective.gumbel_temperature)
        output = model(batch_of(step, args["num_negatives"]), temperature=temperature)
        assert output.targets == step["size"]
        return result_of(output.loss, output.targets)

    schedule = ScheduleOptions(learning_rate=5e-4, max_update=MAX_UPDATE, warmup_updates=10)
    losses, rates, gradients = train(
        model, forward, records["steps"], OptimizerOptions(adam_eps=eps), schedule.function()
    )
    np.testing.assert_allclose(rates, records["rates"], rtol=1e-12)
    found = checkpoints.read_checkpoint(with_state(folder, "gradients", records["gradients"]))
    what = f"pre-training, eps {eps:g}"
    compare_tensors(f"{what}: gradient of update 1", gradients, found["model"], 1e-3)
    compare_losses(what, losses, records["steps"], bound)
    last = checkpoints.read_checkpoint(folder / "run" / LAST)
    compare_moves(what, model, start, last, 1e-3 if eps < 1e-9 else 0.1)


def compare_moves(what: str, model, start: Path, last: dict, bound: float) -> None:
    """How far the weights are from theirs, relative to how far theirs have moved."""
    first = checkpoints.read_checkpoint(start)["model"]
    # The softmax cancels a key's bias: its gradient, and its way, is rounding.
    ours = {n: p for n, p in model.named_parameters() if not n.endswith("k_proj.bias")}
    theirs = last["model"]
    apart = torch.stack([(ours[n].detach() - theirs[n]).norm() for n in ours]).norm()
    moved = torch.stack([(theirs[n] - first[n]).norm() for n in ours]).norm()
    figure(f"{what}: weights after {UPDATES} updates, of their way", float(apart / moved), bound)


def test_30_updates_of_fine_tuning(finetuned):
    folder, records = finetuned
    start = with_state(folder, "initial", records["initial"])
    content = checkpoints.read_checkpoint(start)
    architecture = native.architecture_of(content, "start")
    vocabulary = native.vocabulary_of(content, "start")
    model = Wav2Vec2ForCTC.from_config(
        architecture, Regularisation(**NO_DROPOUT, feature_grad_mult=0.0), len(vocabulary)
    )
    model.load_state_dict(content["model"])
    kernels.install(model, CPU)
    frozen = True

    def before(update):
        nonlocal frozen
        frozen = update <= FREEZE - 1  # theirs freezes one update less
        model.wav2vec2.requires_grad_(not frozen)
        model.wav2vec2.feature_extractor.requires_grad_(False)

    def forward(step, update):
        time_mask, channel_mask = step["masks"]
        output = model(
            step["source"], time_mask=time_mask, channel_mask=channel_mask, freeze_encoder=frozen
        )
        lengths = step["target_lengths"]
        labels = torch.cat([row[:n] for row, n in zip(step["target"].long(), lengths)])
        loss = ctc_loss(output.logits, output.frame_lengths, labels, lengths)
        return result_of(loss, step["size"])

    schedule = ScheduleOptions(
        learning_rate=5e-4,
        schedule="three_stage",
        max_update=MAX_UPDATE,
        warmup_updates=3,
        hold_updates=12,
    ).function()
    options = OptimizerOptions(adam_eps=1e-8, weight_decay=0.0)
    first = records["rates"][0]  # the one rate that differs: see test_learning_rates
    losses, rates, gradients = train(
        model,
        forward,
        records["steps"],
        options,
        lambda update: first if update == 1 else schedule(update),
        before,
    )
    np.testing.assert_allclose(rates, records["rates"], rtol=1e-12)
    found = checkpoints.read_checkpoint(with_state(folder, "gradients", records["gradients"]))
    compare_tensors("fine-tuning: gradient of update 1", gradients, found["model"], 1e-3)
    compare_losses("fine-tuning", losses, records["steps"], 1e-5)
    last = checkpoints.read_checkpoint(folder / "run" / LAST)
    compare_moves("fine-tuning", model, start, last, 1e-2)


def test_their_inference(corpus, finetuned, tmp_path):
    """Their inference.py, one utterance at a time, and ours in padded batches."""
    checkpoint = finetuned[0] / "run" / LAST
    flags = ["--w2v_path", checkpoint, "--data", corpus, "--valid_subset", "valid", "--cpu"]
    flags += ["--batch_size", "1", "--num_workers", "0", "--labels", "ltr", "--mha", "pyt"]
    predictions, logits = tmp_path / "predictions", tmp_path / "logits"
    flags += ["--save_predictions", predictions, "--save_logits", logits, "--output_dir", tmp_path]
    run_reference(tmp_path / "records", "inference.py", *flags)
    recogniser = Recogniser.from_checkpoint(str(checkpoint), CPU)
    greedy, found = GreedyDecoder(recogniser.vocabulary), {}
    manifest = read_manifest(corpus, "valid")
    for batch in recogniser.batches(manifest, 4, workers=0):
        found |= dict(zip(batch.ids, recogniser.emissions(batch)))
    ours = [found[utterance.id] for utterance in manifest.utterances]
    theirs = torch.load(logits)[:, 0]
    figure("inference: log probabilities", difference(torch.cat(ours), theirs), 1e-4)
    # Theirs also writes the names of special symbols, which this hardly trained model predicts.
    texts = [re.sub("<[^>]*>", "", text) for text in predictions.read_text().split("\n")]
    assert [greedy(row).words for row in ours] == [" ".join(text.split()) for text in texts]
