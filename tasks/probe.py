"""How much a model's layers know before fine-tuning: a linear layer learns units from each.

Linear CTC on frozen features (compare arXiv 2105.01051, SUPERB, with one linear layer for every
task), here on a few minutes of transcribed audio.  The error rate counts less than its distance
from two others, which get the same budget: log-mel features, and the same model with random
weights.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from common.runtime.randomness import key
from wav2vec2 import kernels
from wav2vec2.audio.decode import normalize
from wav2vec2.audio.packed import read_audio
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError
from wav2vec2.cli.flags import require_at_least
from wav2vec2.config import Architecture, Regularisation
from wav2vec2.ctc import BLANK, ctc_loss
from wav2vec2.decoding.alignment import frames_needed
from wav2vec2.feature_extractor import frame_count
from wav2vec2.files.filelists import read_labels, read_manifest
from wav2vec2.hidden_states import all_hidden_states, shortening
from wav2vec2.text.error_rate import ErrorCounts
from wav2vec2.trunk import Wav2Vec2

LEARNING_RATES = (0.01, 0.03)
"""Peaks that are tried for each row: random weights and log-mel features prefer the lower one."""

STEPS = 160
"""Updates on all audio at each learning rate: half of them at the peak, then down to 0."""

CHECK_EVERY = 20
"""Updates between two looks at the utterances for tuning, which choose rate and number of steps."""

TUNING = 4
"""Every so many utterances of those to learn from are kept for tuning."""

HELD_OUT_SHARE = 0.5
"""Audio to measure on, as a share of that to learn from."""

MELS = 80
"""Bands of the log-mel features."""

LOG_MEL = "log-mel"
EXTRACTOR = "extractor"


@dataclass(frozen=True)
class ProbeOptions:
    """Probe of the layers"""

    probe: int = 0
    """Updates between two probes of what each layer knows, on transcribed audio; 0: none."""
    probe_subset: tuple[str, ...] = ()
    """Two transcribed filelists: to learn a linear layer from, and to measure it on.  Default: the
    first of --train_subset and of --valid_subset."""
    probe_labels: str = "ltr"
    """Extension of the label files of the probe."""
    probe_minutes: float = 3.0
    """Most audio to learn from, and half as much to measure on, in minutes."""

    def __post_init__(self) -> None:
        require_at_least(self, probe=0)
        if len(self.probe_subset) not in (0, 2):
            raise UserError(
                f"--probe_subset {' '.join(self.probe_subset)}: give two filelists, to learn from "
                "and to measure on"
            )
        if not self.probe_minutes > 0:
            raise UserError(f"--probe_minutes {self.probe_minutes:g}: must be above 0")


@dataclass(frozen=True)
class Labelled:
    """Utterances with their units."""

    waveforms: list[np.ndarray]
    """`[samples]` at 16 kHz each."""
    units: list[list[int]]
    """Ids of each one's units, from 1; -1: a unit that the audio to learn from lacks."""

    @property
    def minutes(self) -> float:
        return sum(map(len, self.waveforms)) / SAMPLE_RATE / 60


@dataclass(frozen=True)
class ProbeData:
    """What a probe learns from and is measured on."""

    learn: Labelled
    tune: Labelled
    held_out: Labelled
    classes: int
    """Different units, the blank included."""

    @classmethod
    def read(
        cls,
        dataset_dir: str,
        subsets: tuple[str, str],
        labels: str,
        minutes: float,
        architecture: Architecture,
    ) -> "ProbeData":
        """At most `minutes` of the first filelist to learn from and half of that of the second to
        measure on, spread evenly over each.  UserError for missing files, or for too little."""
        first, second = subsets
        learn = _read_part(dataset_dir, first, labels, minutes, architecture)
        held_out = _read_part(dataset_dir, second, labels, HELD_OUT_SHARE * minutes, architecture)
        if len(learn) < TUNING:
            raise UserError(
                f"{dataset_dir}/{first}.tsv: a probe needs {TUNING} utterances in {minutes:g} "
                f"minutes, it has {len(learn)}; give more minutes, or another filelist"
            )
        ids = {symbol: n for n, symbol in enumerate(sorted({s for _, u in learn for s in u}), 1)}
        parts = [learn[n::TUNING] for n in range(TUNING)]
        return cls(
            *(
                Labelled([w for w, _ in part], [[ids.get(s, -1) for s in u] for _, u in part])
                for part in (list(chain(*parts[1:])), parts[0], held_out)
            ),
            classes=len(ids) + 1,
        )


def _read_part(
    dataset_dir: str, subset: str, labels: str, minutes: float, architecture: Architecture
) -> list[tuple[np.ndarray, list[str]]]:
    """Waveforms and units of about `minutes` of a filelist, spread evenly over it."""
    manifest = read_manifest(dataset_dir, subset)
    lines = {name: line.split() for name, line in read_labels(manifest, labels).items()}
    limit = minutes * 60 * SAMPLE_RATE
    usable = [
        u
        for u in manifest.utterances
        if u.samples <= limit
        and frame_count(u.samples, architecture.conv_layers) >= max(1, frames_needed(lines[u.id]))
    ]
    total = sum(u.samples for u in usable)
    stride = max(1.0, total / limit)
    chosen, samples = [], 0
    for number in range(int(len(usable) / stride)):
        utterance = usable[int(number * stride)]
        if samples + utterance.samples <= limit:
            samples += utterance.samples
            chosen.append(utterance)
    if not chosen:
        raise UserError(
            f"{manifest.path}: holds no utterance of at most {minutes:g} minutes with enough "
            "frames for its labels; give the probe more minutes, or another filelist"
        )
    return [(read_audio(u.path, u.samples), lines[u.id]) for u in chosen]


@dataclass(frozen=True)
class Layer:
    """The features of one layer for the three parts of a ProbeData: `[frames, width]` each."""

    learn: list[Tensor]
    tune: list[Tensor]
    held_out: list[Tensor]


class Probe:
    """Measures models of one architecture on the same data."""

    def __init__(self, data: ProbeData, architecture: Architecture, device: torch.device):
        self.data, self.architecture, self.device = data, architecture, device

    def random_weights(self) -> dict[str, float]:
        """`error_rates` of the same model with random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(key("probe weights"))
            trunk = Wav2Vec2.from_config(self.architecture, Regularisation())
        return self.error_rates(trunk)

    def of_weights(self, weights: dict[str, Tensor]) -> dict[str, float]:
        """`error_rates` of a trunk with these weights, of which it takes a copy in fp32."""
        with torch.random.fork_rng(devices=[]):
            trunk = Wav2Vec2.from_config(self.architecture, Regularisation())
        trunk.load_state_dict(weights)
        return self.error_rates(trunk)

    def error_rates(self, trunk: Wav2Vec2) -> dict[str, float]:
        """Unit error rates on held-out audio, percent, by layer: `extractor`, `layer 1`, ...

        UserError if features are not finite.
        """
        kernels.install(trunk.to(self.device).eval(), self.device)
        layers = self._of_parts(lambda waveform: self._features(trunk, waveform))
        names = [EXTRACTOR, *(f"layer {n}" for n in range(1, len(layers)))]
        return {name: self._error_rate(name, layer) for name, layer in zip(names, layers)}

    def log_mel(self) -> float:
        """The same of log-mel features, which need no model."""
        (layer,) = self._of_parts(lambda waveform: [self._log_mel(waveform)])
        return self._error_rate(LOG_MEL, layer)

    def _of_parts(self, features: Callable[[np.ndarray], list[Tensor]]) -> list[Layer]:
        """`features`: waveform -> those of each layer."""
        data = self.data
        parts = [
            list(zip(*(features(waveform) for waveform in part.waveforms)))
            for part in (data.learn, data.tune, data.held_out)
        ]
        return [Layer(*map(list, layer)) for layer in zip(*parts)]

    @torch.no_grad()
    def _features(self, trunk: Wav2Vec2, waveform: np.ndarray) -> list[Tensor]:
        """The extractor's output and each layer's for one utterance, `[frames, width]` each.

        Shortened layers are repeated to the full rate, so that CTC has as many frames.
        """
        if self.architecture.normalize_input:
            waveform = normalize(waveform, self.architecture.normalize_eps)
        batch = torch.from_numpy(waveform)[None].to(self.device)
        frames = trunk.extract(batch, None)
        features = [frames.features]
        for layer, states in enumerate(all_hidden_states(trunk, frames), start=1):
            features.append(states.repeat_interleave(shortening(trunk, layer), dim=1))
        count = frames.features.shape[1]
        return [values[0, :count].float().cpu() for values in features]

    def _log_mel(self, waveform: np.ndarray) -> Tensor:
        """Log-mel features `[frames, MELS]`, a frame for each of the extractor's."""
        width, step = receptive_field(self.architecture)
        windows = torch.from_numpy(waveform).unfold(0, width, step)
        windows = (windows - windows.mean(dim=1, keepdim=True)) * torch.hann_window(width)
        size = 2 ** math.ceil(math.log2(width))
        power = torch.fft.rfft(windows, size).abs() ** 2
        return (power @ mel_filters(MELS, size) + 1e-6).log()

    def _error_rate(self, name: str, layer: Layer) -> float:
        """Unit error rate on the held-out part, with rate and steps chosen on the tuning part."""
        data, device = self.data, self.device
        known = torch.cat(layer.learn)
        if not known.isfinite().all():
            raise UserError(f"probe: features of {name} are not finite numbers: damaged weights")
        mean, scale = known.mean(dim=0), known.std(dim=0) + 1e-5

        def standardised(part: list[Tensor]) -> tuple[Tensor, list[int]]:
            return ((torch.cat(part) - mean) / scale).to(device), [len(f) for f in part]

        learn, tune, held_out = map(standardised, (layer.learn, layer.tune, layer.held_out))
        best, chosen = math.inf, None
        for rate in LEARNING_RATES:
            for linear in linear_ctc(*learn, data.learn.units, data.classes, rate):
                found = unit_error_rate(linear, *tune, data.tune.units)
                if found < best:
                    best, chosen = found, (linear[0].clone(), linear[1].clone())
        assert chosen is not None
        return unit_error_rate(chosen, *held_out, data.held_out.units)


Linear = tuple[Tensor, Tensor]
"""Weight `[width, classes]` and bias `[classes]`."""


def linear_ctc(
    features: Tensor, lengths: list[int], units: list[list[int]], classes: int, rate: float
) -> Iterator[Linear]:
    """Learn a linear layer by CTC from zeros, on all utterances at once; yields it now and then.

    The first that it yields is the start, which finds no unit anywhere: 100 % errors.

    `features` `[sum of lengths, width]`.  Nothing is drawn, so the result repeats.
    """
    weight = torch.zeros(features.shape[1], classes, device=features.device, requires_grad=True)
    bias = torch.zeros(classes, device=features.device, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=rate)
    labels = torch.tensor(list(chain(*units)))
    label_lengths = torch.tensor([len(row) for row in units])
    for step in range(STEPS + 1):
        if step % CHECK_EVERY == 0:
            yield weight.detach(), bias.detach()
        if step == STEPS:
            return
        optimizer.param_groups[0]["lr"] = rate * min(1.0, 2 * (STEPS - step) / STEPS)
        logits = pad_sequence((features @ weight + bias).split(lengths), batch_first=True)
        loss = ctc_loss(logits, torch.tensor(lengths), labels, label_lengths) / len(labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def unit_error_rate(
    linear: Linear, features: Tensor, lengths: list[int], units: list[list[int]]
) -> float:
    """Percent, over all utterances, of greedy CTC; `features` `[sum of lengths, width]`."""
    weight, bias = linear
    counts = ErrorCounts()
    for best, reference in zip((features @ weight + bias).argmax(-1).cpu().split(lengths), units):
        found = torch.unique_consecutive(best)
        counts.add(list(map(str, found[found != BLANK].tolist())), list(map(str, reference)))
    return counts.rate


def receptive_field(architecture: Architecture) -> tuple[int, int]:
    """Samples that a frame of the extractor sees, and samples from one frame to the next."""
    width, step = 1, 1
    for _, kernel, stride in architecture.conv_layers:
        width += (kernel - 1) * step
        step *= stride
    return width, step


def mel_filters(bands: int, size: int) -> Tensor:
    """Triangles on the mel scale (O'Shaughnessy 1987), `[size / 2 + 1, bands]`, over the
    frequencies of a transform of `size` samples."""
    top = 2595 * math.log10(1 + SAMPLE_RATE / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2) / 2595) - 1)  # Hz
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, size // 2 + 1)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return torch.minimum(rising, falling).clamp(min=0)
