"""ARPA language models written by the tests, and their probabilities from the definition."""

from pathlib import Path

Model = dict[tuple[str, ...], tuple[float, float]]
"""n-gram -> (log10 probability, log10 back-off weight)."""


def write_arpa(path: Path, model: Model) -> Path:
    order = max(map(len, model))
    by_order = [[gram for gram in model if len(gram) == n] for n in range(1, order + 1)]
    lines = ["\\data\\", *(f"ngram {n}={len(g)}" for n, g in enumerate(by_order, start=1))]
    for n, grams in enumerate(by_order, start=1):
        lines += ["", f"\\{n}-grams:"]
        for gram in grams:
            probability, backoff = model[gram]
            tail = f"\t{backoff}" if n < order else ""
            lines.append(f"{probability}\t{' '.join(gram)}{tail}")
    path.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")
    return path


def log10_probability(model: Model, words: list[str]) -> float:
    """Of a whole sentence, its end included, by Katz back-off."""
    history, total = ("<s>",), 0.0
    for word in [*words, "</s>"]:
        word = word if (word,) in model else "<unk>"
        total += conditional(model, history, word)
        history = (*history, word)
    return total


def conditional(model: Model, history: tuple[str, ...], word: str) -> float:
    history = history[max(len(history) - max(map(len, model)) + 1, 0) :]
    if (*history, word) in model:
        return model[(*history, word)][0]
    return model.get(history, (0.0, 0.0))[1] + conditional(model, history[1:], word)


def bigrams(words: list[str], likely: list[tuple[str, str]]) -> Model:
    """A model that prefers some pairs of words."""
    model: Model = {("<unk>",): (-3.0, 0.0), ("<s>",): (-99.0, -0.5), ("</s>",): (-1.0, 0.0)}
    model |= {(word,): (-1.0 - 0.07 * n, -0.4) for n, word in enumerate(words)}
    return model | {pair: (-0.1 - 0.03 * n, 0.0) for n, pair in enumerate(likely)}
