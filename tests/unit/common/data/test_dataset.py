import numpy as np
import pytest
import soundfile
import torch

from common.data.batching import BatchPlan, Geometry, GroupRequest
from common.data.dataset import UtteranceDataset
from wav2vec2.audio.decode import normalize
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError
from wav2vec2.files.filelists import Utterance
from wav2vec2.inference.batches import load_batches, pad

LENGTHS = [5000, 4000, 3500, 3000, 2500, 2000]


@pytest.fixture
def utterances(tmp_path):
    generator = np.random.default_rng(0)
    found = []
    for number, length in enumerate(LENGTHS):
        path = tmp_path / f"u{number}.wav"
        soundfile.write(path, generator.uniform(-0.5, 0.5, length), SAMPLE_RATE, subtype="PCM_16")
        found.append(Utterance(path.stem, str(path), length, number + 2))
    return found


def draw(lengths, key):
    return list(lengths), key


def test_cropping_to_the_groups_shortest(utterances):
    dataset = UtteranceDataset(utterances, seed=1, crop=True, max_samples=4500, draw=draw)
    batch = dataset[GroupRequest(2, 7, ((0, 1), (2,)))]
    assert batch.waveforms.shape == (3, 3500) and batch.lengths.tolist() == [3500] * 3
    assert batch.ids == ["u0", "u1", "u2"]
    assert batch.draws == [([3500, 3500], (1, 2, 14)), ([3500], (1, 2, 15))]
    for row, number in zip(batch.waveforms, (0, 1, 2)):
        audio, _ = soundfile.read(utterances[number].path, dtype="float32")
        starts = [s for s in range(len(audio) - 3499) if audio[s] == row[0]]
        assert any(np.array_equal(audio[s : s + 3500], row) for s in starts)


def test_crops_move_with_the_epoch_and_nothing_else(utterances):
    dataset = UtteranceDataset(utterances, seed=1, crop=True, max_samples=2000)
    one = dataset[GroupRequest(0, 0, ((0, 1),))]
    assert torch.equal(one.waveforms, dataset[GroupRequest(0, 0, ((0, 1),))].waveforms)
    assert not torch.equal(one.waveforms, dataset[GroupRequest(1, 0, ((0, 1),))].waveforms)
    other = UtteranceDataset(utterances, seed=2, crop=True, max_samples=2000)
    assert not torch.equal(one.waveforms, other[GroupRequest(0, 0, ((0, 1),))].waveforms)


def test_normalised_over_the_whole_utterance_before_cropping(utterances):
    dataset = UtteranceDataset(
        utterances, seed=1, crop=True, max_samples=1000, normalize_input=True
    )
    row = dataset[GroupRequest(0, 0, ((0,),))].waveforms[0].numpy()
    audio = normalize(soundfile.read(utterances[0].path, dtype="float32")[0])
    start = int(np.flatnonzero(audio == row[0])[0])
    assert np.array_equal(audio[start : start + 1000], row)


def test_padding_with_zeros_after_normalisation(utterances):
    dataset = UtteranceDataset(
        utterances, seed=1, crop=False, normalize_input=True, labels=[[n] for n in range(6)]
    )
    batch = dataset[GroupRequest(0, 0, ((3, 0),))]
    assert batch.lengths.tolist() == [3000, 5000] and batch.labels == [[3], [0]]
    assert not batch.waveforms[0, 3000:].any()
    assert batch.waveforms[0, :3000].std() == pytest.approx(1.0, rel=1e-3)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(utterances, workers):
    plan = BatchPlan(LENGTHS, max_tokens=10_000, seed=1, geometry=Geometry(), flags="")
    dataset = UtteranceDataset(utterances, seed=1, crop=True, max_samples=2500, draw=draw)
    requests = [r for epoch in range(3) for r in plan.requests(epoch)]
    alone = list(load_batches(dataset, requests, workers=0))
    helped = list(load_batches(dataset, requests, workers=workers))
    assert len(alone) == len(helped) == len(requests)
    for a, b in zip(alone, helped):
        assert a.ids == b.ids and a.draws == b.draws and a.key == b.key
        assert torch.equal(a.waveforms, b.waveforms)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_surfaces_as_one_line(utterances, workers):
    with open(utterances[3].path, "wb"):
        pass
    dataset = UtteranceDataset(utterances, seed=1, crop=False)
    requests = [GroupRequest(0, n, ((n,),)) for n in range(6)]
    batches = load_batches(dataset, requests, workers=workers)
    for expected in ("u0", "u1", "u2"):
        assert next(batches).ids == [expected]
    with pytest.raises(UserError) as error:
        next(batches)
    assert "\n" not in str(error.value) and "u3.wav: the file is empty" in str(error.value)


def test_pad():
    rows = pad([np.ones(2, np.float32), np.ones(3, np.float32)])
    assert rows.tolist() == [[1, 1, 0], [1, 1, 1]]
