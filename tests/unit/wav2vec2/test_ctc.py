from dataclasses import replace

import torch

from tests.unit.wav2vec2.test_pretraining import NO_DROPOUT, TINY
from wav2vec2.ctc import Wav2Vec2ForCTC, ctc_loss


def make_model(regularisation=NO_DROPOUT):
    torch.manual_seed(0)
    return Wav2Vec2ForCTC.from_config(TINY, regularisation, 7).double()


def all_paths_probability(probabilities, labels):
    """Sum over every alignment, enumerated: the definition of CTC."""
    frames, units = probabilities.shape
    total = 0.0
    paths = torch.cartesian_prod(*[torch.arange(units)] * frames)
    for path in paths:
        collapsed = [int(u) for u in torch.unique_consecutive(path) if u != 0]
        if collapsed == labels:
            total += float(torch.stack([probabilities[t, u] for t, u in enumerate(path)]).prod())
    return total


def test_loss_is_minus_log_of_all_alignments():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 3, dtype=torch.float64)
    loss = ctc_loss(logits, torch.tensor([4, 3]), torch.tensor([1, 1, 2]), torch.tensor([2, 1]))
    first = all_paths_probability(logits[0].softmax(-1), [1, 1])
    second = all_paths_probability(logits[1, :3].softmax(-1), [2])
    torch.testing.assert_close(loss, -torch.tensor([first, second]).double().log().sum())


def test_impossible_labels_cost_nothing():
    logits = torch.randn(1, 2, 3, requires_grad=True)
    loss = ctc_loss(logits, torch.tensor([2]), torch.tensor([1, 1]), torch.tensor([2]))
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_frozen_encoder_leaves_only_the_output_layer():
    model = make_model(replace(NO_DROPOUT, dropout=0.5)).train()
    waveforms = torch.randn(2, 4000, dtype=torch.float64)
    torch.manual_seed(1)
    first = model(waveforms, freeze_encoder=True)
    torch.manual_seed(2)
    second = model(waveforms, freeze_encoder=True)
    assert not torch.equal(first.logits, second.logits)  # dropout still acts
    first.logits.sum().backward()
    learning = {n for n, p in model.named_parameters() if p.grad is not None}
    assert learning == {"proj.weight", "proj.bias"}


def test_channel_mask_comes_after_the_time_mask():
    model = make_model().eval()
    seen = {}
    encoder = model.wav2vec2.encoder
    encoder.register_forward_pre_hook(lambda module, args: seen.update(x=args[0]))
    time_mask = torch.zeros(1, 12, dtype=torch.bool)
    time_mask[0, 3] = True
    channel_mask = torch.zeros(1, TINY.dim, dtype=torch.bool)
    channel_mask[0, :5] = True
    model(torch.randn(1, 4000, dtype=torch.float64), time_mask=time_mask, channel_mask=channel_mask)
    assert not seen["x"][0, :, :5].any()  # all frames, the masked one included
    torch.testing.assert_close(seen["x"][0, 3, 5:], model.wav2vec2.mask_emb[5:])


def test_lengths_equal_to_the_width_are_no_padding():
    model = make_model().eval()
    waveforms = torch.randn(2, 4000, dtype=torch.float64)
    with torch.no_grad():
        plain = model(waveforms)
        given = model(waveforms, torch.tensor([4000, 4000]))
    assert torch.equal(plain.logits, given.logits)
    assert plain.frame_lengths.tolist() == given.frame_lengths.tolist() == [12, 12]
