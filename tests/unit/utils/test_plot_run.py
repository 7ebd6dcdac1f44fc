import json

import pytest

from common.errors import UserError
from utils.plot_run import draw, read_curves


def line(step, **data):
    return f"DLLL {json.dumps({'type': 'LOG', 'step': step, 'data': data})}\n"


@pytest.fixture
def run(tmp_path):
    text = line("PARAMETER", seed=1)
    text += line([1, 5, 10], train_loss=6.0) + line([1, 10, 10], train_loss=5.0)
    text += line([1], val_loss=5.5) + "DLLL {half a li\n" + "another program's line\n"
    text += line([1, 10, 10], train_loss=4.0) + line([2, 5, 10], train_loss=None)  # resumed
    (tmp_path / "nvlog.json").write_text(text + line([2, 6, 10], train_loss=3.0) + line([2], b=1))
    return tmp_path


def test_later_lines_win_and_broken_ones_are_counted(run, capsys):
    curves = read_curves(run)
    assert curves["train_loss"] == {5: 6.0, 10: 4.0, 16: 3.0}
    assert curves["val_loss"] == {10: 5.5} and curves["b"] == {16: 1}
    assert "2 lines are no log lines" in capsys.readouterr().err


def test_nothing_to_draw(tmp_path):
    with pytest.raises(UserError, match="nvlog.json: cannot be read"):
        read_curves(tmp_path)
    (tmp_path / "nvlog.json").write_text("hello\n")
    with pytest.raises(UserError, match="holds no log lines"):
        read_curves(tmp_path)


@pytest.mark.parametrize("name", ["run.svg", "run.png"])
def test_a_figure(run, tmp_path, name):
    pytest.importorskip("matplotlib")
    draw({"one": read_curves(run), "two": read_curves(run)}, tmp_path / name)
    first = (tmp_path / name).read_bytes()
    assert len(first) > 5_000
    if name.endswith("svg"):
        assert first.count(b"one train_loss") >= 1 and first.count(b"two train_loss") >= 1
    with pytest.raises(UserError, match="--output .*run.xyz: cannot be written"):
        draw({"one": read_curves(run)}, tmp_path / "run.xyz")
