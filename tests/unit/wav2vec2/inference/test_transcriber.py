"""Windows against the whole, on a model whose frames depend on their own samples alone."""

import itertools
import math

import numpy as np
import pytest
import torch

from wav2vec2.audio.decode import normalize, stream_audio
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.audio.waveform import Waveform
from wav2vec2.cli.errors import UserError
from wav2vec2.decoding.greedy import GreedyDecoder
from wav2vec2.feature_extractor import frame_count, sample_count
from wav2vec2.inference.transcriber import Transcriber, WindowOptions
from wav2vec2.interop.onnx import OnnxRecogniser
from wav2vec2.text.vocabulary import Spelling, Vocabulary

LAYERS = ((1, 10, 5), (1, 3, 2), (1, 3, 2), (1, 3, 2), (1, 3, 2), (1, 2, 2), (1, 2, 2))
LETTERS = Vocabulary([*"|ABCD"])


class Local:
    """A recogniser whose frame is the pooled audio under it, group by group as an hourglass'."""

    vocabulary, frame_samples, device = LETTERS, 320, torch.device("cpu")

    def __init__(self, shortening: int, normalize_input: bool):
        self.shortening, self.normalize_input = shortening, normalize_input
        self.normalize_eps = 1e-5
        self.model, self.batches = self, []

    def frames(self, samples):
        return frame_count(samples, LAYERS)

    def samples(self, frames):
        return sample_count(frames, LAYERS)

    def logits(self, batch):
        self.batches.append(batch.lengths.tolist())
        return [self.logits_of(row[:n]) for row, n in zip(batch.waveforms, batch.lengths.tolist())]

    def logits_of(self, row):
        count = frame_count(len(row), LAYERS)
        if count == 0:
            return torch.empty(0, len(LETTERS))
        level = row.unfold(0, 400, 320)[:count].mean(dim=1)
        # Each group of frames has a letter, which its middle frames say, silence between.
        group = torch.arange(count) // self.shortening
        pooled = torch.stack([level[group == g].mean() for g in group])
        logits = torch.zeros(count, len(LETTERS))
        logits[:, 0] = 0.3
        for place in range(4, len(LETTERS)):
            logits[:, place] = (1000 * pooled * (place - 3) + level * 50).sin()
        return logits


def transcribe(recogniser, rows, batch_size=3, **windows):
    transcriber = Transcriber(
        recogniser, GreedyDecoder(LETTERS), WindowOptions(**windows), batch_size
    )
    recordings = [(n, Waveform([row])) for n, row in enumerate(rows)]
    found = list(transcriber.transcribe_all(recordings))
    assert [key for key, _ in found] == list(range(len(rows)))
    return [transcript for _, transcript in found]


def noise(samples, seed=0):
    return np.random.default_rng(seed).normal(0.1, 0.3, samples).astype(np.float32)


@pytest.mark.parametrize(("shortening", "normalize_input"), [(1, False), (4, True), (3, False)])
def test_windows_give_each_frame_the_units_of_the_whole(shortening, normalize_input):
    recogniser = Local(shortening, normalize_input)
    for seconds in (1.5, 2.0, 2.07, 3.333, 9.0):
        row = noise(int(seconds * SAMPLE_RATE), seed=int(seconds * 100))
        (whole,) = transcribe(recogniser, [row], window_seconds=100)
        for overlap in (0, 0.5, 1.0):
            (windowed,) = transcribe(recogniser, [row], window_seconds=2, overlap_seconds=overlap)
            assert windowed.text == whole.text != ""
            assert [(w.start, w.end) for w in windowed.words] == [
                (w.start, w.end) for w in whole.words
            ]
            confidences = [w.confidence for w in windowed.words]
            assert confidences == pytest.approx([w.confidence for w in whole.words], abs=1e-3)


def test_words_are_in_order_and_within_the_recording():
    (found,) = transcribe(Local(2, True), [noise(77_777)], window_seconds=1, overlap_seconds=0.4)
    edges = [edge for word in found.words for edge in (word.start, word.end)]
    assert len(edges) > 20 and edges == sorted(edges)
    assert edges[0] >= 0 and edges[-1] <= found.duration == 77_777 / SAMPLE_RATE
    assert all(word.start < word.end for word in found.words)
    assert all(0 < word.confidence <= 1 for word in found.words)


@pytest.mark.parametrize(
    ("spelling", "text"),
    [(Spelling.LETTERS, "A | B"), (Spelling.LETTERS, "A|"), (Spelling.PIECES, "A ▁ B")],
)
def test_a_separator_in_a_text_to_align_is_refused(spelling, text):
    """It would be aligned as a word without letters, and shift those after it."""
    recogniser = Local(1, False)
    recogniser.vocabulary = Vocabulary([*"|▁ABCD"], spelling)
    transcriber = Transcriber(recogniser, GreedyDecoder(recogniser.vocabulary))
    with pytest.raises(UserError, match=r"a\.wav: its transcript \(--text\) has '[|▁]'"):
        transcriber.label_line("a.wav", text)


def test_an_alignment_in_windows_is_that_of_the_whole():
    """Of what was recognised, of a part of it, and of a text with a wildcard."""
    recogniser = Local(2, True)
    row = noise(100_001).clip(-1, 1)
    (spoken,) = transcribe(recogniser, [row], window_seconds=100)
    words = spoken.text.split()
    texts = [(words, False), (words[5:-4], True), ([*words[:3], "*", *words[9:]], False)]
    for text, open_ends in texts:
        found = []
        for seconds in (100, 1):
            options = WindowOptions(window_seconds=seconds, overlap_seconds=0.4)
            transcriber = Transcriber(recogniser, GreedyDecoder(LETTERS), options, 3)
            found.append(transcriber.align(row, " ".join(text), 16_000, open_ends=open_ends))
        whole, windowed = found
        assert [w.text for w in whole.words] == [word for word in text if word != "*"]
        assert [(w.start, w.end) for w in whole.words] == [(w.start, w.end) for w in windowed.words]
        assert [w.score for w in windowed.words] == pytest.approx(
            [w.score for w in whole.words], abs=1e-3
        )
    assert (whole.samples, whole.seconds(50)) == (100_001, 1.0)
    assert transcriber.align(row, " ".join(words[:8]), 16_000).untranscribed != []


@pytest.mark.parametrize("symbols", ["|ABCD", "EABCD"])
def test_units_are_those_of_the_words(symbols):
    """Also where no unit separates words, and a recording is one long word."""
    recogniser = Local(3, False)
    recogniser.vocabulary = Vocabulary([*symbols])
    (found,) = transcribe(recogniser, [noise(77_777)], window_seconds=1, overlap_seconds=0.4)
    assert (len(found.words) == 1) == ("|" not in symbols)
    rest = list(found.units)
    for word in found.words:
        own = [unit for unit in rest if word.start <= unit.start < word.end]
        assert "".join(unit.text for unit in own) == word.text
        assert (own[0].start, own[-1].end) == (word.start, word.end)
        del rest[: len(own)]
    assert rest == []


def test_confidence_is_the_geometric_mean_over_the_units_frames():
    recogniser = Local(1, False)
    row = noise(8000)
    (found,) = transcribe(recogniser, [row])
    values = recogniser.logits_of(torch.from_numpy(row)).softmax(dim=-1).double()
    separator = LETTERS.encode("|")[0]
    for word in found.words:
        frames = range(round(word.start * 50), round(word.end * 50))
        best = [int(values[frame].argmax()) for frame in frames]
        own = [values[f, b].item() for f, b in zip(frames, best) if b not in (0, separator)]
        assert word.confidence == pytest.approx(math.exp(np.log(own).mean()), rel=1e-5)


def test_batches_change_nothing():
    lengths = [16_000, 100, 90_000, 48_000, 399, 400, 33_333]
    rows = [noise(samples, seed) for seed, samples in enumerate(lengths)]
    recogniser = Local(2, True)
    options = {"window_seconds": 1.0, "overlap_seconds": 0.2}
    alone = [transcribe(recogniser, [row], **options)[0] for row in rows]
    for size in (1, 2, 5, 100):
        assert transcribe(recogniser, rows, size, **options) == alone
    assert alone[1].text == alone[4].text == "" and alone[1].words == ()


def test_recordings_of_similar_length_share_a_batch():
    seconds = [1, 5, 2, 5, 1, 2]
    rows = [noise(n * SAMPLE_RATE, seed) for seed, n in enumerate(seconds)]
    recogniser = Local(2, True)
    alone = [transcribe(recogniser, [row])[0] for row in rows]
    recogniser.batches.clear()
    assert transcribe(recogniser, rows, batch_size=2) == alone
    batches = [[length // SAMPLE_RATE for length in batch] for batch in recogniser.batches]
    assert batches == [[5, 5], [2, 2], [1, 1]]


@pytest.mark.parametrize("seconds, most", [(1, 12), (9, 4)])
def test_only_some_recordings_are_read_ahead(seconds, most):
    """Most of 3 per batch, or of 10 s of audio; four batches."""
    opened = []

    def recordings():
        for number in range(14):
            opened.append(number)
            yield number, Waveform(stream_audio(noise(seconds * SAMPLE_RATE, number), SAMPLE_RATE))

    windows = WindowOptions(window_seconds=10)
    transcriber = Transcriber(Local(2, True), GreedyDecoder(LETTERS), windows, 3)
    transcripts = transcriber.transcribe_all(recordings())
    assert next(transcripts)[0] == 0
    assert len(opened) <= most + 1
    assert [key for key, _ in transcripts] == list(range(1, 14))


def test_a_gpu_takes_full_batches_a_cpu_one_windows_audio():
    rows = [noise(20 * SAMPLE_RATE), noise(SAMPLE_RATE), noise(SAMPLE_RATE)]
    sizes = {}
    for kind in ("cpu", "meta"):
        recogniser = Local(1, False)
        recogniser.device = torch.device(kind)
        transcribe(recogniser, rows, batch_size=4, window_seconds=4, overlap_seconds=0)
        sizes[kind] = [len(lengths) for lengths in recogniser.batches]
    assert sizes == {"cpu": [1, 1, 1, 1, 1, 2], "meta": [4, 3]}


def test_a_short_recording_is_processed_whole_to_its_last_sample():
    recogniser = Local(4, True)
    rows = []
    recogniser.logits_of = lambda row: rows.append(row.numpy()) or torch.empty(0, len(LETTERS))
    row = noise(12_345)
    transcribe(recogniser, [row])
    assert np.array_equal(rows[0], normalize(row))


def test_windows_start_on_the_grid_and_are_normalised_as_the_whole():
    recogniser = Local(8, True)
    row = noise(200_001)
    pieces = []
    recogniser.logits_of = lambda part: (
        pieces.append(part.numpy()) or torch.zeros(frame_count(len(part), LAYERS), len(LETTERS))
    )
    transcribe(recogniser, [row], window_seconds=3, overlap_seconds=1)
    whole = normalize(row)
    starts = []
    for piece in pieces:
        fits = [
            s
            for s in range(0, len(whole), 320 * 8)
            if np.allclose(whole[s : s + len(piece)], piece[: len(whole) - s], atol=1e-5)
        ]
        starts += fits[:1]
    assert len(starts) == len(pieces) > 4 and starts == sorted(starts)


def test_a_unit_that_never_ends_is_one_unit():
    """Where there is no pause to cut at, the path is still joined."""
    recogniser = Local(1, False)

    def drone(row):
        logits = torch.zeros(frame_count(len(row), LAYERS), len(LETTERS))
        logits[:, 5] = 9.0
        return logits

    recogniser.logits_of = drone
    (found,) = transcribe(recogniser, [noise(160_000)], window_seconds=1, overlap_seconds=0.5)
    assert found.text == "A"
    assert (found.words[0].start, found.words[0].end) == (0.0, 499 * 0.02)


def test_options_that_cannot_work():
    for options, message in [
        ({"window_seconds": 0.5}, "--window_seconds 0.5"),
        ({"overlap_seconds": -1}, "--overlap_seconds -1"),
        ({"window_seconds": 4, "overlap_seconds": 2.5}, "--overlap_seconds 2.5"),
    ]:
        with pytest.raises(UserError, match=message):
            WindowOptions(**options)


def test_arrays_and_files_say_what_is_missing(tmp_path):
    transcriber = Transcriber(Local(1, False), GreedyDecoder(LETTERS))
    with pytest.raises(ValueError, match="give it in Hz"):
        transcriber.transcribe(noise(1000))
    with pytest.raises(ValueError, match="a file has its own sample rate"):
        transcriber.transcribe(tmp_path / "a.wav", 16_000)
    with pytest.raises(ValueError, match="cannot be opened"):
        transcriber.transcribe(str(tmp_path / "a.wav"))
    stereo = np.stack([noise(32_000)] * 2, axis=1)
    once, twice = (transcriber.transcribe(x, 32_000) for x in (stereo[:, 0], stereo))
    assert once == twice and once.duration == 1.0 and once.text


@pytest.mark.parametrize(
    "rate",
    [float("inf"), float("nan"), 1e300, -16_000, 0, 1e-30, 16, "16000", 1j, [16_000]]
    + [np.zeros(50_000), torch.zeros(3)],
    ids=repr,
)
def test_rates_that_are_none(rate):
    """Some would end the process, fill its memory, or keep the resampler for ever."""
    transcriber = Transcriber(Local(1, False), GreedyDecoder(LETTERS))
    with pytest.raises(UserError, match="^rate .*: must be a number .* Hz$") as error:
        transcriber.transcribe(noise(1000), rate)
    assert len(str(error.value)) < 120


def test_rates_of_any_library():
    transcriber = Transcriber(Local(1, False), GreedyDecoder(LETTERS))
    given = [32_000, 32_000.0, np.int64(32_000), torch.tensor(32_000)]
    first, *others = (transcriber.transcribe(noise(32_000), rate) for rate in given)
    assert first.duration == 1.0 and all(other == first for other in others)


def test_ragged_audio():
    transcriber = Transcriber(Local(1, False), GreedyDecoder(LETTERS))
    tensors = [torch.zeros(3), torch.zeros(4)]
    for ragged in ([[0.1, 0.2], [0.3]], [noise(5), noise(6)], tensors):
        with pytest.raises(UserError, match="^audio: .*different lengths"):
            transcriber.transcribe(ragged, 16_000)
    assert transcriber.transcribe(noise(8000).tolist(), 16_000).text


def test_fewest_samples_of_so_many_frames():
    for frames in itertools.chain(range(1, 20), [1499]):
        samples = sample_count(frames, LAYERS)
        assert frame_count(samples, LAYERS) == frames
        assert frame_count(samples - 1, LAYERS) == frames - 1
    assert sample_count(1, LAYERS) == 400


def test_an_onnx_file_has_no_features():
    recogniser = Local(1, False)
    recogniser.model, recogniser.checkpoint = object.__new__(OnnxRecogniser), "model.onnx"
    transcriber = Transcriber(recogniser, GreedyDecoder(LETTERS))
    with pytest.raises(UserError, match="features: model.onnx is an ONNX file, which gives logits"):
        transcriber.features(noise(16_000), SAMPLE_RATE)


def test_logits_are_those_of_all_windows():
    recogniser, row = Local(4, True), noise(5 * SAMPLE_RATE)
    parts = Transcriber(recogniser, GreedyDecoder(LETTERS), WindowOptions(2.0, 1.0))
    whole = Transcriber(recogniser, GreedyDecoder(LETTERS), WindowOptions(100.0))
    assert len(recogniser.batches) == 0
    expected = whole.logits(row, SAMPLE_RATE)
    assert len(recogniser.batches) == 1 and expected.shape == (249, len(whole.units))
    np.testing.assert_allclose(parts.logits(row, SAMPLE_RATE), expected, atol=2e-2)
    assert len(recogniser.batches) > 2
