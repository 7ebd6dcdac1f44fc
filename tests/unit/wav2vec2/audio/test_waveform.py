"""A waveform on disk against NumPy's own statistics of the whole."""

import tempfile
from contextlib import closing

import numpy as np
import pytest

from wav2vec2.audio import waveform
from wav2vec2.audio.decode import normalize
from wav2vec2.audio.waveform import Waveform
from wav2vec2.cli.errors import UserError


def blocks_of(samples, sizes):
    return np.split(samples, np.cumsum(sizes)[:-1])


@pytest.fixture
def samples():
    generator = np.random.default_rng(0)
    return (generator.normal(0.3, 0.1, 5000) * np.linspace(0, 2, 5000)).astype(np.float32)


@pytest.mark.parametrize("in_memory", [10**6, 100])
def test_what_was_written_is_read(samples, in_memory, monkeypatch):
    monkeypatch.setattr(waveform, "IN_MEMORY", in_memory)
    with closing(Waveform(iter(blocks_of(samples, [1, 0, 1500, 3000, 499])))) as spooled:
        assert (spooled.samples, spooled.seconds) == (5000, 5000 / 16_000)
        for start, end in [(0, 5000), (4000, 4999), (17, 18), (3, 2500)]:
            assert np.array_equal(spooled.read(start, end), samples[start:end])
        wide = samples.astype(np.float64)
        assert spooled.mean == pytest.approx(wide.mean(), rel=1e-12)
        assert spooled.variance == pytest.approx(wide.var(), rel=1e-12)
        part = spooled.read(1000, 2000, normalized=True)
        np.testing.assert_allclose(part, normalize(samples)[1000:2000], rtol=1e-6, atol=1e-7)
        assert np.array_equal(spooled.read(0, 5000, normalized=True), normalize(samples))


def test_an_offset_far_from_zero_costs_no_accuracy():
    """Sums of squares would lose what a variance about the mean keeps."""
    samples = (100 + 1e-3 * np.random.default_rng(0).standard_normal(40_000)).astype(np.float32)
    spooled = Waveform(blocks_of(samples, [10_000] * 4))
    assert spooled.variance == pytest.approx(samples.astype(np.float64).var(), rel=1e-9)


def test_a_full_disk_is_a_one_line_error(samples, monkeypatch):
    class Full(tempfile.SpooledTemporaryFile):
        def write(self, content):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(waveform.tempfile, "SpooledTemporaryFile", Full)
    with pytest.raises(UserError, match="No space left on device.*TMPDIR"):
        Waveform([samples])
