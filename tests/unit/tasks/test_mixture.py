import pytest

from common.training.meter import Sums
from tasks.mixture import Mixture, add_apart, report_apart
from wav2vec2.cli.errors import UserError
from wav2vec2.files.filelists import Utterance


def corpus(seconds):
    return [Utterance(str(n), "", 16_000, n) for n in range(seconds)]


CORPORA = {"large": corpus(900), "small": corpus(100)}


def test_as_they_are():
    mixture = Mixture.of(CORPORA)
    assert mixture.shares == pytest.approx((0.9, 0.1))
    assert mixture.passes == pytest.approx((1, 1))


def test_temperature():
    mixture = Mixture.of(CORPORA, exponent=0.5)  # 30 : 10
    assert mixture.shares == pytest.approx((0.75, 0.25))
    assert mixture.passes == pytest.approx((750 / 900, 2.5))
    assert Mixture.of(CORPORA, exponent=0.0).shares == pytest.approx((0.5, 0.5))
    assert sum(p * h for p, h in zip(mixture.passes, mixture.hours)) == pytest.approx(1000 / 3600)


def test_weights():
    mixture = Mixture.of(CORPORA, weights=(1, 3))
    assert mixture.shares == pytest.approx((0.25, 0.75))
    assert "small: 0.03 h, 75.0 % of an epoch (7.50 passes)" in mixture.describe()
    with pytest.raises(UserError, match="3 weights for 2 filelists .large, small."):
        Mixture.of(CORPORA, weights=(1, 2, 3))


def test_reported_apart_and_together():
    sums = Sums()
    for name, errors, words in (("a", 1, 10), ("b", 5, 10), ("a", 2, 20)):
        add_apart(sums, name, {"errors": errors, "words": words})

    def rate(sums):
        return {"wer": sums["errors"] / sums["words"]}

    metrics = report_apart(("a", "b"), sums.total(), rate)
    assert metrics == pytest.approx({"wer": 8 / 40, "a_wer": 3 / 30, "b_wer": 5 / 10})
    alone = Sums()
    add_apart(alone, "a", {"errors": 1, "words": 4})
    assert report_apart(("a",), alone.total(), rate) == {"wer": 0.25}


@pytest.mark.parametrize("corpora", [["a"], ["b", "a"]])
@pytest.mark.parametrize("factors", [(None,), (2, 10)])
def test_validations_apart_by_corpus_and_factor(corpora, factors):
    """Each number is the quotient of the sums of its own parts; a single one has no second name."""
    sums, parts = Sums(), {}
    for n, name in enumerate(corpora, start=1):
        for factor in factors:
            errors = n * (factor or 5)
            parts[name, factor] = errors, 10 * n
            add_apart(sums, name, {"errors": errors, "words": 0}, factor)
            add_apart(sums, name, {"errors": 0, "words": 10 * n}, factor)
    found = report_apart(corpora, sums.total(), lambda s: {"wer": s["errors"] / s["words"]})

    def rate(chosen):
        return sum(e for e, _ in chosen) / sum(w for _, w in chosen)

    expected = {"wer": rate(parts.values())}
    if len(corpora) > 1:
        for name in corpora:
            expected[f"{name}_wer"] = rate([p for (own, _), p in parts.items() if own == name])
    for factor in factors if factors[0] else ():
        own = [p for (_, at), p in parts.items() if at == factor]
        expected[f"factor_{factor}_wer"] = rate(own)
    assert found == pytest.approx(expected) and list(found) == list(expected)
