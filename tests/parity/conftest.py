"""The same random weights in this repository's models and in Hugging Face transformers'."""

from dataclasses import replace

import pytest
import torch

from wav2vec2.config import BASE, LARGE, Architecture, ContrastiveObjective, Regularisation
from wav2vec2.ctc import Wav2Vec2ForCTC
from wav2vec2.interop.huggingface import their_name, their_weights
from wav2vec2.interop.huggingface_config import config_of_architecture
from wav2vec2.pretraining import Wav2Vec2ForPretraining

transformers = pytest.importorskip("transformers")

NO_DROPOUT = Regularisation(
    dropout=0.0,
    dropout_input=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
    layerdrop=0.0,
    feature_grad_mult=1.0,  # transformers has no such factor
)
# transformers has no features penalty either.
OBJECTIVE = ContrastiveObjective(loss_weights=(0.1, 0.0), distractors=20, dropout_features=0.0)

# Full widths and the full extractors.  Base also in full depth; Large cut to three layers.
ARCHITECTURES = {"base": BASE, "large": replace(LARGE, layers=3)}


def their_config(architecture: Architecture, **options) -> "transformers.Wav2Vec2Config":
    return transformers.Wav2Vec2Config.from_dict(
        {
            **config_of_architecture(architecture),
            "num_negatives": OBJECTIVE.distractors,
            "contrastive_logits_temperature": OBJECTIVE.logit_temperature,
            "diversity_loss_weight": OBJECTIVE.loss_weights[0],
            "hidden_dropout": 0.0,
            "activation_dropout": 0.0,
            "attention_dropout": 0.0,
            "feat_proj_dropout": 0.0,
            "feat_quantizer_dropout": 0.0,
            "final_dropout": 0.0,
            "layerdrop": 0.0,
            "ctc_loss_reduction": "sum",
            "ctc_zero_infinity": True,
            "pad_token_id": 0,
            "attn_implementation": "sdpa",
            **options,
        }
    )


def with_their_weights(theirs: torch.nn.Module, ours: torch.nn.Module, architecture: Architecture):
    """`theirs` with every weight of ours; no key of either may be left over."""
    theirs.load_state_dict(their_weights(ours.state_dict(), architecture), strict=True)
    return theirs


def shake(model: torch.nn.Module) -> None:
    """Move norms' gains and biases off 1 and 0, so that none of them can be mixed up unseen."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)


def pretraining_pair(architecture: Architecture):
    """Our pre-training model and transformers', with the same weights."""
    torch.manual_seed(7)
    ours = Wav2Vec2ForPretraining.from_config(architecture, NO_DROPOUT, OBJECTIVE)
    shake(ours)
    theirs = transformers.Wav2Vec2ForPreTraining(their_config(architecture))
    return ours, with_their_weights(theirs, ours, architecture)


def ctc_pair(architecture: Architecture, vocabulary: int):
    """Our recogniser and transformers', with the same weights."""
    torch.manual_seed(8)
    ours = Wav2Vec2ForCTC.from_config(architecture, NO_DROPOUT, vocabulary)
    shake(ours)
    theirs = transformers.Wav2Vec2ForCTC(their_config(architecture, vocab_size=vocabulary))
    return ours, with_their_weights(theirs, ours, architecture)


def assert_gradients_agree(ours: torch.nn.Module, theirs: torch.nn.Module) -> float:
    """Per tensor, |difference| <= 1e-4 max(|gradient|, 1e-6 |all gradients|); returns the worst
    ratio of the two sides."""
    mine = {their_name(n): p.grad for n, p in ours.named_parameters()}
    other = {n: p.grad for n, p in theirs.named_parameters()}
    assert mine.keys() == other.keys()
    total = torch.stack([g.norm() for g in other.values() if g is not None]).norm()
    assert total > 0
    worst = 0.0
    for name, theirs_grad in other.items():
        ours_grad = mine[name]
        if theirs_grad is None or ours_grad is None:
            present = theirs_grad if ours_grad is None else ours_grad
            assert present is None or not present.any(), f"{name}: only one side has a gradient"
            continue
        bound = 1e-4 * max(theirs_grad.norm(), 1e-6 * total)
        difference = (ours_grad - theirs_grad).norm()
        worst = max(worst, float(difference / bound))
        assert difference <= bound, f"{name}: {difference} > {bound}"
    return worst


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def architecture(request) -> Architecture:
    return ARCHITECTURES[request.param]
