"""Memory of fine-tuning: what is computed, against the bytes of a small model that is trained."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from common.training.precision import Weights
from tasks.adaptation import AdaptOptions, freeze_start
from utils.finetuning.memory import HOP, MODELS, Method, bytes_per_sample, count_bytes
from wav2vec2.config import BASE, LARGE, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC

SMALL = {"layers": 24, "dim": 128, "ffn_dim": 512, "heads": 4, "position_groups": 4}
PRE_LN = replace(LARGE, **SMALL, conv_layers=((32, 10, 5), (32, 8, 8), (32, 8, 8)))
POST_LN = replace(BASE, **SMALL, conv_layers=((32, 10, 5), (32, 8, 8), (32, 8, 8)))
UNITS = 12

LORA, ADAPTERS = AdaptOptions(adapt="lora"), AdaptOptions(adapt="adapters", adapter_dim=24)
WIDE = AdaptOptions(adapt="lora", lora_rank=4, lora_targets=("k_proj", "out_proj", "fc1", "fc2"))
CASES = [
    (PRE_LN, AdaptOptions()),
    (PRE_LN, LORA),
    (PRE_LN, WIDE),
    (PRE_LN, ADAPTERS),
    (POST_LN, AdaptOptions()),
    (POST_LN, WIDE),
]
cases = pytest.mark.parametrize(
    ("architecture", "adapt"), CASES, ids=lambda v: getattr(v, "adapt", "")
)


def size(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


def build(architecture, adapt):
    """The model as a fine-tuning trains it, and the names of what learns."""
    torch.manual_seed(0)
    regularisation = Regularisation(0.0, 0.0, 0.0, 0.1, feature_grad_mult=0.0)
    adapted = adapt.architecture(architecture, {}, "")
    model = Wav2Vec2ForCTC.from_config(adapted, regularisation, UNITS).train()
    trained = freeze_start(model, adapt)
    model.wav2vec2.feature_extractor.requires_grad_(False)
    return model, trained


@pytest.mark.parametrize("half", [False, True])
@cases
def test_parameters_gradients_and_optimizer_state_are_exact(architecture, adapt, half):
    model, trained = build(architecture, adapt)
    weights = Weights(model, "bf16" if half else "fp32", trained)
    optimizer = torch.optim.AdamW(weights.parameters(), fused=True)
    loss = model(torch.randn(1, 6400), time_mask=torch.zeros(1, 19, dtype=torch.bool))
    loss.logits.float().sum().backward()
    weights.collect_gradients()
    gradients = [parameter.grad for parameter in weights.trainable()]
    optimizer.step()
    held = {t.data_ptr(): t for t in (*model.parameters(), *weights.parameters())}
    moments = [t for state in optimizer.state.values() for t in state.values()]
    counted = count_bytes(architecture, Method(half, adapt=adapt), UNITS)
    assert counted.parameters == size(held.values())
    assert counted.gradients == size(gradients)
    assert counted.optimizer == size(moments)
    assert counted.learning == sum(g.numel() for g in gradients)
    assert counted.total == sum(p.numel() for p in model.parameters())


@cases
def test_activations(architecture, adapt, monkeypatch):
    """What autograd keeps for the backward pass, with a GPU's dropout, which keeps its mask."""
    monkeypatch.setattr(F, "dropout", lambda x, p, train, _: torch.native_dropout(x, p, train)[0])
    model, _ = build(architecture, adapt)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that its place is not used again
        return tensor

    frames = 150
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.randn(2, frames * HOP)).logits.log_softmax(-1).sum()
    found = sum(storage.nbytes() for storage in kept.values())
    computed = 2 * frames * HOP * bytes_per_sample(architecture, Method(False, adapt=adapt))
    assert 0.97 < computed / found < 1.08


def test_8_bit_moments_are_a_quarter():
    for architecture in MODELS.values():
        plain, small = (
            count_bytes(architecture, Method(optimizer=o)) for o in ("adam", "adam8bit")
        )
        assert 0.25 < small.optimizer / plain.optimizer < 0.26
        assert (plain.parameters, plain.gradients) == (small.parameters, small.gradients)
