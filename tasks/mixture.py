"""Several filelists trained on together: how much of each, and what is reported apart."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.dataset import TrainingBatch
from common.training.meter import Sums, Totals
from wav2vec2.audio.resample import SAMPLE_RATE
from wav2vec2.cli.errors import UserError
from wav2vec2.files.filelists import Manifest, Utterance, read_manifest

_SEPARATOR = "\t"
"""Between a filelist's name, which cannot hold it, and what is summed."""


def read_manifests(
    flag: str, dataset_dir: str | Path, subsets: Sequence[str]
) -> dict[str, Manifest]:
    """The filelists a flag names, by their file's stem, or as the flag names them where stems are
    the same (english/train, french/train).  Raises UserError for none, or for one named twice."""
    if not subsets:
        raise UserError(f"{flag}: names no filelist")
    manifests = [read_manifest(dataset_dir, subset) for subset in subsets]
    names: Sequence[str] = [manifest.path.stem for manifest in manifests]
    if len(set(names)) < len(names):
        names = subsets
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{flag}: names {name} twice; name it once")
    return dict(zip(names, manifests))


@dataclass(frozen=True)
class Mixture:
    """The corpora of a training and each one's share of an epoch's audio."""

    names: tuple[str, ...]
    hours: tuple[float, ...]
    shares: tuple[float, ...]
    """Sum 1."""

    @classmethod
    def of(
        cls,
        corpora: dict[str, Sequence[Utterance]],
        weights: Sequence[float] = (),
        exponent: float = 1.0,
    ) -> "Mixture":
        """Shares in proportion to `weights`, without them to hours^exponent (arXiv 2006.13979,
        section 3; its alpha): 1 is the corpora as they are, 0 the same share for each."""
        seconds = [sum(u.samples for u in corpus) / SAMPLE_RATE for corpus in corpora.values()]
        hours = [s / 3600 for s in seconds]
        if weights and len(weights) != len(corpora):
            raise UserError(
                f"--train_weights: {len(weights)} weights for {len(corpora)} filelists "
                f"({', '.join(corpora)}); give one each"
            )
        parts = list(weights) or [h**exponent for h in hours]
        return cls(tuple(corpora), tuple(hours), tuple(p / sum(parts) for p in parts))

    @property
    def passes(self) -> tuple[float, ...]:
        """How many times an epoch passes through each corpus; an epoch's hours are those of all."""
        total = sum(self.hours)
        return tuple(share * total / own for share, own in zip(self.shares, self.hours))

    def describe(self) -> str:
        """One line of shares, for the log."""
        rows = zip(self.names, self.hours, self.shares, self.passes)
        return "; ".join(
            f"{name}: {hours:.2f} h, {100 * share:.1f} % of an epoch ({passes:.2f} passes)"
            for name, hours, share, passes in rows
        )

    def seconds(self, batch: TrainingBatch) -> dict[str, float]:
        """What to sum over batches for `measured`; nothing with a single corpus."""
        if len(self.names) == 1:
            return {}
        own = enumerate(self.names)
        return {
            f"seconds{_SEPARATOR}{n}": batch.audio_seconds * (c == batch.corpus) for c, n in own
        }

    def measured(self, totals: Totals) -> dict[str, float]:
        """Each corpus' share of the audio that was trained on, in percent."""
        if len(self.names) == 1:
            return {}
        return {
            f"share_{name}": 100 * totals.sums[f"seconds{_SEPARATOR}{name}"] / totals.audio_seconds
            for name in self.names
        }


def add_apart(sums: Sums, name: str, values: dict[str, Any], factor: int | None = None) -> None:
    """Add what belongs to the corpus `name`, for `report_apart`; `factor`: the pooling factor that
    it was measured at, of a model with several."""
    place = name if factor is None else f"{name}{_SEPARATOR}{factor}"
    sums.add({f"{place}{_SEPARATOR}{key}": value for key, value in values.items()})


def report_apart(
    names: Iterable[str],
    sums: dict[str, Any],
    summarise: Callable[[dict[str, Any]], dict[str, float]],
) -> dict[str, float]:
    """Metrics over all corpora and pooling factors together; of several corpora those of each,
    `<name>_wer`; of several factors those of each, `factor_<n>_wer`."""
    corpora = list(names)
    parts: dict[tuple[str, int], dict[str, Any]] = {}  # by corpus and factor; 0: there is one
    for key, value in sums.items():
        name, *factor, metric = key.split(_SEPARATOR)
        parts.setdefault((name, int(factor[0]) if factor else 0), {})[metric] = value
    places = sorted(parts, key=lambda place: (corpora.index(place[0]), place[1]))
    groups: dict[str, list[dict[str, Any]]] = {"": [parts[place] for place in places]}
    for name, factor in places:
        if len(corpora) > 1:
            groups.setdefault(f"{name}_", []).append(parts[name, factor])
    for name, factor in places:
        if factor:
            groups.setdefault(f"factor_{factor}_", []).append(parts[name, factor])
    metrics: dict[str, float] = {}
    for prefix, group in groups.items():
        total = {key: sum(part[key] for part in group) for key in group[0]}
        metrics |= {f"{prefix}{key}": value for key, value in summarise(total).items()}
    return metrics
