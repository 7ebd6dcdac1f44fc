"""Where each dropout of the model acts, and where not."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from wav2vec2.config import MINI, ContrastiveObjective, Regularisation
from wav2vec2.contrastive import draw_distractors
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.masking import draw_time_masks
from wav2vec2.pretraining import PretrainingBatch, SubBatch, Wav2Vec2ForPretraining

NONE = Regularisation(**dict.fromkeys((f.name for f in fields(Regularisation)), 0.0))
NONE = replace(NONE, feature_grad_mult=1.0)
SAMPLES = 16_000
FRAMES = 49
OBJECTIVE = ContrastiveObjective(distractors=10, dropout_features=0.0)


def settings(name, probability=0.5):
    """Regularisation, objective and final dropout with one of the dropouts, the others 0."""
    regularisation = NONE if not hasattr(NONE, name) else replace(NONE, **{name: probability})
    objective = OBJECTIVE
    if name == "dropout_features":
        objective = replace(OBJECTIVE, dropout_features=probability)
    return regularisation, objective, probability if name == "final_dropout" else 0.0


def pretraining(regularisation, objective=OBJECTIVE, final_dropout=0.0, training=True):
    """Everything a pre-training forward pass shows."""
    torch.manual_seed(0)
    model = Wav2Vec2ForPretraining.from_config(MINI, regularisation, objective).train(training)
    torch.manual_seed(1)
    waveforms = torch.randn(2, SAMPLES)
    generator = np.random.default_rng(0)
    masked = draw_time_masks(
        [FRAMES] * 2, probability=0.65, span=10, generator=generator, padded=False
    )
    distractors = draw_distractors(2, len(masked[0]), 10, generator)
    sub_batch = SubBatch(torch.tensor(np.stack(masked)), torch.tensor(distractors), noise_seed=5)
    seen = {}
    model.quantizer.register_forward_hook(lambda m, i, o: seen.update(quantizer=i[0]))
    model.final_proj.register_forward_hook(lambda m, i, o: seen.update(context=i[0]))
    with torch.no_grad():
        output = model(PretrainingBatch(waveforms, [sub_batch]), temperature=1.0)
    return seen | {"loss": output.loss}


def ctc(regularisation, objective=OBJECTIVE, final_dropout=0.0, training=True):
    """The input of the output layer, and its logits."""
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC.from_config(MINI, regularisation, 10, final_dropout).train(training)
    seen = {}
    model.final_dropout.register_forward_hook(lambda m, i, o: seen.update(context=i[0]))
    torch.manual_seed(1)
    waveforms = torch.randn(2, SAMPLES)
    with torch.no_grad():
        return seen | {"logits": model(waveforms).logits}


# Which parts of a forward pass a dropout changes.
PLACES = {
    "dropout": {"context"},
    "dropout_input": {"context"},
    "attention_dropout": {"context"},
    "activation_dropout": {"context"},
    "dropout_features": {"quantizer"},
    "final_dropout": set(),
    "layerdrop": set(),  # decided outside the model
}


@pytest.mark.parametrize("name", list(PLACES))
def test_in_pretraining(name):
    without, with_it = pretraining(NONE), pretraining(*settings(name))
    changed = {part for part in without if not torch.equal(without[part], with_it[part])}
    assert changed - {"loss"} == PLACES[name]
    assert ("loss" in changed) == bool(PLACES[name])


@pytest.mark.parametrize("name", list(PLACES))
def test_in_finetuning(name):
    without, with_it = ctc(NONE), ctc(*settings(name))
    changed = {part for part in without if not torch.equal(without[part], with_it[part])}
    expected = {"context", "logits"} if "context" in PLACES[name] else set()
    assert changed == ({"logits"} if name == "final_dropout" else expected)


def test_none_in_evaluation():
    every = Regularisation(**{f.name: 0.5 for f in fields(Regularisation)})
    for run in (pretraining, ctc):
        objective = replace(OBJECTIVE, dropout_features=0.5)
        without = run(NONE, training=False)
        with_all = run(every, objective, 0.5, training=False)
        for part, value in without.items():
            assert torch.equal(value, with_all[part]), part


def test_dropout_counts():
    """`dropout` acts after attention, after feed-forward, and on the encoder's input: a share of
    zeros at each of 2 x layers + 1 places, of the right size."""
    model = Wav2Vec2ForCTC.from_config(MINI, replace(NONE, dropout=0.25), 10).train()
    shares = []
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) and module.p == 0.25:
            module.register_forward_hook(lambda m, i, o: shares.append((o == 0).float().mean()))
    with torch.no_grad():
        model(torch.randn(2, SAMPLES))
    assert len(shares) == 2 * MINI.layers + 1
    assert all(float(share) == pytest.approx(0.25, abs=0.02) for share in shares)


def test_layerdrop_skips_exactly_the_layers_told():
    model = Wav2Vec2ForCTC.from_config(MINI, NONE, 10).eval()
    ran = []
    for index, layer in enumerate(model.wav2vec2.encoder.stack.layers):
        layer.register_forward_hook(lambda m, i, o, index=index: ran.append(index))
    with torch.no_grad():
        model(torch.randn(1, SAMPLES), kept_layers=[True, False, False, True])
    assert ran == [0, 3]
