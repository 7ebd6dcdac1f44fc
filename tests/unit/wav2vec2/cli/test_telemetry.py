import json
import re

import pytest

from wav2vec2.cli.errors import UserError
from wav2vec2.cli.telemetry import Telemetry, format_value


def records(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert all(line.startswith("DLLL ") for line in lines)
    return [json.loads(line.removeprefix("DLLL ")) for line in lines]


def test_records(tmp_path, capsys):
    telemetry = Telemetry(tmp_path, tensorboard=False)
    telemetry.parameters({"seed": 1, "loss_weights": (0.1, 10.0)})
    telemetry.log([1, 2, 9], {"train_loss": 1.5, "train_lr": 1e-4})
    telemetry.log([1, 3, 9], {"train_loss": float("nan")})
    telemetry.log([], {})  # nothing to say
    telemetry.close()
    written = records(tmp_path / "nvlog.json")
    assert [r["type"] for r in written] == ["LOG", "LOG", "METADATA", "METADATA", "LOG", "LOG"]
    assert written[0]["step"] == "PARAMETER" and written[0]["data"] == {"seed": 1}
    assert written[1]["data"] == {"loss_weights": [0.1, 10.0]}
    assert (written[2]["metric"], written[3]["metric"]) == ("train_loss", "train_lr")
    assert written[4]["step"] == [1, 2, 9]
    assert written[5]["data"] == {"train_loss": None}  # NaN is not JSON
    for record in written:
        assert re.fullmatch(r"\d+\.\d+", record["timestamp"])
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", record["datetime"])
    out = capsys.readouterr().out.splitlines()
    assert out[0].endswith("[1 2 9] train_loss 1.5000 | train_lr 1.000e-04") and len(out) == 2


def test_every_run_has_a_copy_of_its_own(tmp_path):
    for number in (1, 2):
        telemetry = Telemetry(tmp_path, tensorboard=False)
        telemetry.log([number], {"val_loss": float(number)})
        telemetry.close()
    both = [r["step"] for r in records(tmp_path / "nvlog.json") if r["type"] == "LOG"]
    assert both == [[1], [2]]
    for number in (1, 2):
        own = records(tmp_path / f"nvlog.{number}.json")
        assert [r["step"] for r in own if r["type"] == "LOG"] == [[number]]


def test_half_a_line_of_a_killed_run_spoils_no_other(tmp_path):
    (tmp_path / "nvlog.json").write_text('DLLL {"timest')
    telemetry = Telemetry(tmp_path, tensorboard=False)
    telemetry.log([1], {"val_loss": 1.0})
    telemetry.close()
    lines = (tmp_path / "nvlog.json").read_text().splitlines()
    assert lines[0] == 'DLLL {"timest'
    assert all(json.loads(line.removeprefix("DLLL ")) for line in lines[1:]) and len(lines) == 3


def test_other_processes_write_nothing(tmp_path, capsys):
    telemetry = Telemetry(tmp_path, enabled=False)
    telemetry.log([1], {"val_loss": 1.0})
    telemetry.scalars("valid", 1, {"loss": 1.0})
    telemetry.close()
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"nvlog\.json: log cannot be written"):
        Telemetry(tmp_path / "missing")


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("train_loss", 0.49123, "0.4912"),
        ("val_wer", 12.345, "12.35 %"),
        ("train_avg_ntokens/s", 1234.5, "1234"),
        ("train_took", 0.5, "0.50 s"),
        ("something", 3, "3"),
    ],
)
def test_values_as_people_read_them(metric, value, text):
    assert format_value(metric, value) == text
