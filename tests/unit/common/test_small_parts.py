"""Error rates, randomness, metrics, exit codes."""

import os
import subprocess
import sys

import pytest
import torch

from common.runtime import randomness
from common.training.meter import Sums
from wav2vec2.cli import errors
from wav2vec2.text.error_rate import ErrorCounts


def slow_distance(a, b):
    if not a or not b:
        return len(a) + len(b)
    return min(
        slow_distance(a[1:], b) + 1,
        slow_distance(a, b[1:]) + 1,
        slow_distance(a[1:], b[1:]) + (a[0] != b[0]),
    )


def test_error_rate_is_of_the_corpus():
    counts = ErrorCounts()
    pairs = [("A B C", "A X C D"), ("A A", ""), ("", "B C"), ("HELLO THERE", "HELLO THERE")]
    for hypothesis, reference in pairs:
        assert counts.add(hypothesis.split(), reference.split()) == slow_distance(
            hypothesis.split(), reference.split()
        )
    assert (counts.errors, counts.reference) == (6, 8)
    assert counts.rate == 75.0
    assert ErrorCounts().rate == 0.0
    assert ErrorCounts(1, 0).rate == float("inf")


def test_keys_differ_by_purpose_and_every_part():
    keys = [
        randomness.key("mask", 1, 2, 3),
        randomness.key("crop", 1, 2, 3),
        randomness.key("mask", 1, 2, 4),
        randomness.key("mask", 12, 3),
        randomness.key("mask", 1, 23),
    ]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 2**63 for key in keys)


def test_generators_repeat():
    first = randomness.numpy_generator("a", 1).random(3)
    assert (first == randomness.numpy_generator("a", 1).random(3)).all()
    assert torch.equal(
        torch.rand(2, generator=randomness.torch_generator("a", 1)),
        torch.rand(2, generator=randomness.torch_generator("a", 1)),
    )
    randomness.reseed("a", 1)
    once = torch.rand(2)
    randomness.reseed("a", 1)
    assert torch.equal(once, torch.rand(2))


def test_deterministic_operators(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    try:
        randomness.use_deterministic_operators()
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark


def test_sums():
    sums = Sums()
    sums.add({"loss": torch.tensor(1.5, requires_grad=True), "n": 2})
    sums.add({"loss": torch.tensor(2.0), "n": 3})
    other = Sums()
    other.add({"n": 1})
    sums.merge(other)
    assert sums.total() == {"loss": 3.5, "n": 6.0}
    assert Sums().total() == {}


def test_sums_of_many_values_are_those_of_one_after_the_other():
    """They are added up in handfuls; tensors and numbers, in fp64, in whatever sums they came."""
    sums, other = Sums(), Sums()
    expected, numbers = torch.zeros(2, dtype=torch.float64), 0
    for n in range(300):
        value = torch.rand(2, generator=torch.Generator().manual_seed(n)) * 10**6
        (sums if n % 3 else other).add({"codes": value, "n": n, "both": n if n % 2 else value[0]})
        expected += value.double()
        numbers += n
        if n % 100 == 99:
            sums.merge(other)
            other = Sums()
    total = sums.total()
    torch.testing.assert_close(total["codes"], expected, rtol=1e-14, atol=0)
    assert total["n"] == numbers
    assert len(sums._values["n"]) < 100


def run_code(body: str) -> subprocess.CompletedProcess:
    code = f"from wav2vec2.cli.errors import *\ndef main():\n    {body}\nrun_command(main)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(
    "error, full",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), True),
        (RuntimeError("CUDA error: out of memory\nCompile with ..."), True),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"),
            True,
        ),
        (RuntimeError("NCCL error\nLast error:\nCuda failure 2 'out of memory'"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory(error, full):
    assert errors.out_of_memory(error) == full
    raised = errors.UserError if full else type(error)
    with pytest.raises(raised), errors.out_of_memory_as_user_error():
        raise error


def test_reasons_that_speak_of_memory_stay_what_they_are():
    with pytest.raises(errors.PeerLost), errors.out_of_memory_as_user_error():
        raise errors.PeerLost("process 1 was killed: out of memory?")


def test_exit_codes_and_single_lines():
    for body, code, line in [
        ("return None", 0, ""),
        ("return ExitCode.SOME_FAILED", 1, ""),
        ("raise UserError('a.tsv:3: bad\\n  line')", 2, "error: a.tsv:3: bad line\n"),
        ("raise HealthError('collapsed')", 3, "error: collapsed\n"),
        ("raise StoppedBySignal('saved')", 4, "error: saved\n"),
    ]:
        result = run_code(body)
        assert (result.returncode, result.stderr) == (code, line)
    assert "Traceback" in run_code("raise RuntimeError('ours')").stderr
    full = run_code("import torch; raise torch.OutOfMemoryError('CUDA out of memory. Tried 2 GiB')")
    assert full.returncode == 2
    assert full.stderr.startswith("error: out of memory (CUDA out of memory); make batches smaller")
    assert errors.ExitCode.PEER_LOST == 5
