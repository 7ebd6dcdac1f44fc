"""Corpora as they lie on disk: each format's rows, from a made-up sample of two or three."""

import gzip
import json
from pathlib import Path

import pytest

from utils.corpora.layouts import LAYOUTS, layout_of
from utils.corpora.rows import BadRow, Row, subset_named
from utils.corpora.tables import TableOptions, read_table
from utils.corpora.timed_text import read_beside
from wav2vec2.cli.errors import UserError

SAMPLES = {
    "librispeech": (
        {
            "dev-clean/84/12/84-12.trans.txt": "84-12-0000 GO ON\n84-12-0001 GO BACK\n",
            "dev-clean/84/12/84-12-0000.flac": "",
            "dev-clean/84/12/84-12-0001.flac": "",
            "train-clean-100/19/1/19-1.trans.txt": "19-1-0000 HELLO\n",
            "train-clean-100/19/1/19-1-0000.wav": "",
        },
        {
            ("dev-clean/84/12/84-12-0000.flac", "GO ON", "84", "valid"),
            ("dev-clean/84/12/84-12-0001.flac", "GO BACK", "84", "valid"),
            ("train-clean-100/19/1/19-1-0000.wav", "HELLO", "19", "train"),
        },
    ),
    "mls": (
        {
            "train/transcripts.txt": "9_7_000001\tbonjour\n",
            "train/audio/9/7/9_7_000001.opus": "",
            "dev/transcripts.txt": "8_6_000002\tau revoir\n",
            "dev/audio/8/6/8_6_000002.flac": "",
        },
        {
            ("train/audio/9/7/9_7_000001.opus", "bonjour", "9", "train"),
            ("dev/audio/8/6/8_6_000002.flac", "au revoir", "8", "valid"),
        },
    ),
    "commonvoice": (
        {
            "clips/a.mp3": "",
            "clips/b.mp3": "",
            "train.tsv": 'client_id\tpath\tsentence\nx1\ta.mp3\tHe said "go".\n',
            "dev.tsv": "client_id\tpath\tsentence\nx2\tb.mp3\tNo.\n",
            "other.tsv": "client_id\tpath\tsentence\nx3\tc.mp3\tUnchecked.\n",
        },
        {
            ("clips/a.mp3", 'He said "go".', "x1", "train"),
            ("clips/b.mp3", "No.", "x2", "valid"),
        },
    ),
    "voxpopuli": (
        {
            "2012/2012-PLENARY-1.ogg": "",
            "asr_test.tsv": (
                "id\traw_text\tnormalized_text\tspeaker_id\tsplit\n"
                "2012-PLENARY-1\tA, b.\ta b\t77\ttest\n"
            ),
        },
        {("2012/2012-PLENARY-1.ogg", "a b", "77", "test")},
    ),
    "tedlium": (
        {
            "train/sph/Ann_2010.sph": "",
            "train/stm/Ann_2010.stm": (
                ";; a remark\n"
                "Ann_2010 1 Ann 1.50 3.25 <o,f0,female> so it goes\n"
                "Ann_2010 1 inter_segment_gap 3.25 9 <o,,unknown> ignore_time_segment_in_scoring\n"
            ),
        },
        {("train/sph/Ann_2010.sph", "so it goes", "Ann", "train", 1.5, 3.25)},
    ),
    "timit": (
        {
            "TRAIN/DR1/FCJF0/SA1.WAV": "",
            "TRAIN/DR1/FCJF0/SA1.PHN": "0 100 h#\n",
            "TRAIN/DR1/FCJF0/SA1.TXT": "0 46797 She had your dark suit.\n",
            "TEST/DR1/FAKS0/SA1.WAV": "",
            "TEST/DR1/FAKS0/SA1.PHN": "0 100 h#\n",
            "TEST/DR1/FAKS0/SA1.TXT": "0 63488 She had your dark suit.\n",
        },
        {
            ("TRAIN/DR1/FCJF0/SA1.WAV", "She had your dark suit.", "FCJF0", "train"),
            ("TEST/DR1/FAKS0/SA1.WAV", "She had your dark suit.", "FAKS0", "test"),
        },
    ),
    "an4": (
        {
            "etc/an4_train.transcription": "<s> ENTER SIX </s> (an1-fash-b)\n",
            "etc/an4_train.fileids": "an4_clstk/fash/an1-fash-b\n",
            "wav/an4_clstk/fash/an1-fash-b.sph": "",
            "etc/an4_test.transcription": "STOP (an2-fcaw-b)\n",
            "etc/an4_test.fileids": "an4test_clstk/fcaw/an2-fcaw-b\n",
            "wav/an4test_clstk/fcaw/an2-fcaw-b.sph": "",
        },
        {
            ("wav/an4_clstk/fash/an1-fash-b.sph", "ENTER SIX", "fash", "train"),
            ("wav/an4test_clstk/fcaw/an2-fcaw-b.sph", "STOP", "fcaw", "test"),
        },
    ),
    "kaldi": (
        {
            "dev/wav.scp": "rec1 audio/one.wav\nrec2 sph2pipe two.sph |\n",
            "dev/text": "a-1 hello there\na-2 bye\nb-1 no\n",
            "dev/utt2spk": "a-1 a\na-2 a\nb-1 b\n",
            "dev/segments": "a-1 rec1 0.5 1.25\na-2 rec1 2 -1\nb-1 rec2 0 1\n",
            "audio/one.wav": "",
        },
        {
            ("audio/one.wav", "hello there", "a", "valid", 0.5, 1.25),
            ("audio/one.wav", "bye", "a", "valid", 2.0, None),
            ("dev/wav.scp", "no", "b", "valid", 0.0, 1.0),  # a command
        },
    ),
    "lhotse": (
        {
            "x_recordings_dev.jsonl": (
                '{"id": "a", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}],'
                ' "sampling_rate": 16000, "num_samples": 48000, "duration": 3.0}\n'
            ),
            "x_supervisions_dev.jsonl": (
                '{"id": "a1", "recording_id": "a", "start": 0.5, "duration": 1.5, "channel": 0,'
                ' "text": "go on", "speaker": "ann"}\n'
            ),
            "a.wav": "",
        },
        {("a.wav", "go on", "ann", "valid", 0.5, 2.0)},
    ),
    "ljspeech": (
        {
            "metadata.csv": 'LJ001-0001|In 1455, "he"|In fourteen fifty-five, "he"\n',
            "wavs/LJ001-0001.wav": "",
        },
        {("wavs/LJ001-0001.wav", 'In fourteen fifty-five, "he"', "", "")},
    ),
    "vctk": (
        {
            "txt/p225/p225_001.txt": "Please call Stella.\n",
            "wav48_silence_trimmed/p225/p225_001_mic1.flac": "",
            "wav48_silence_trimmed/p225/p225_001_mic2.flac": "",
        },
        {
            ("wav48_silence_trimmed/p225/p225_001_mic1.flac", "Please call Stella.", "p225", ""),
            ("wav48_silence_trimmed/p225/p225_001_mic2.flac", "Please call Stella.", "p225", ""),
        },
    ),
    "fsdd": (
        {"recordings/7_george_0.wav": "", "recordings/0_lucas_12.wav": ""},
        {
            ("recordings/7_george_0.wav", "seven", "george", ""),
            ("recordings/0_lucas_12.wav", "zero", "lucas", ""),
        },
    ),
    "audiofolder": (
        {
            "train/metadata.csv": "file_name,transcription\na.wav,one\n",
            "train/a.wav": "",
            "test/metadata.jsonl": '{"file_name": "b.wav", "text": "two"}\n',
            "test/b.wav": "",
        },
        {("train/a.wav", "one", "", "train"), ("test/b.wav", "two", "", "test")},
    ),
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def summary(rows, folder):
    """(path, text, speaker, split) of each row, with its times where it has them."""
    found = set()
    for row in rows:
        if isinstance(row, Row):
            times = (row.start, row.end) if row.start or row.end is not None else ()
            path = str(row.audio.relative_to(folder))
            found.add((path, row.text, row.speaker, row.split, *times))
    return found


@pytest.mark.parametrize("name", SAMPLES)
def test_every_layout_is_recognised_and_read(name, tmp_path):
    files, expected = SAMPLES[name]
    write(tmp_path, files)
    assert layout_of(tmp_path) == name
    assert summary(LAYOUTS[name].read(tmp_path), tmp_path) == expected


def formats_table():
    """The table of docs/own_data.md."""
    lines = ["| format | recognised by | what is read |", "|---|---|---|"]
    for name, layout in LAYOUTS.items():
        lines.append(f"| `{name}` | `{layout.marks}` | {layout.read.__doc__.splitlines()[0]} |")
    beside = "Recordings with .txt, .lab, .srt, .vtt, .TextGrid or .eaf beside them."
    lines += [f"| `transcripts` | files of the same name | {beside} |"]
    lines += ["| `audio` | | Audio alone. |"]
    return "\n".join(lines)


def test_the_document_lists_the_formats():
    text = (Path(__file__).resolve().parents[4] / "docs/own_data.md").read_text("utf-8")
    table = text.partition("<!-- formats -->\n")[2].partition("\n<!-- end of formats -->")[0]
    assert table == formats_table()


def test_linked_folders_are_read(tmp_path):
    corpus = write(tmp_path / "disk", SAMPLES["librispeech"][0])
    (tmp_path / "LibriSpeech").mkdir()
    (tmp_path / "LibriSpeech" / "dev-clean").symlink_to(corpus / "dev-clean")
    assert layout_of(tmp_path / "LibriSpeech") == "librispeech"
    rows = list(LAYOUTS["librispeech"].read(tmp_path / "LibriSpeech"))
    assert [row.text for row in rows] == ["GO ON", "GO BACK"]


@pytest.mark.parametrize("name", ["timit", "vctk"])
def test_a_transcript_that_cannot_be_read_is_a_bad_row(name, tmp_path):
    write(tmp_path, SAMPLES[name][0])
    path = next(path for path in sorted(tmp_path.rglob("*")) if path.suffix.lower() == ".txt")
    path.write_bytes(b"\xff\xfe")
    reasons = {row.reason for row in LAYOUTS[name].read(tmp_path) if isinstance(row, BadRow)}
    assert reasons == {"transcript file"}


@pytest.mark.parametrize("name", ["a.txt", "a.srt"])
def test_one_beside_a_recording_too(name, tmp_path):
    write(tmp_path, {"a.wav": ""})
    (tmp_path / name).write_bytes(b"\xff\xfe")
    (row,) = read_beside(tmp_path / "a.wav")
    assert row.reason == "transcript file"


def test_a_folder_of_audio_alone_has_no_layout(tmp_path):
    write(tmp_path, {"a/b.wav": "", "notes.txt": "nothing"})
    assert layout_of(tmp_path) == ""


@pytest.mark.parametrize(
    ("name", "subset"),
    [
        ("dev", "valid"),
        ("validation", "valid"),
        ("Train-clean-100", "train"),
        ("test_seg", "test"),
        ("other", ""),
        ("devices", ""),
        ("", ""),
    ],
)
def test_names_of_splits(name, subset):
    assert subset_named(name) == subset


# --- transcripts beside recordings

BESIDE = {
    "a.txt": ("Hello\nthere.\n", [("Hello there.", 0.0, None, "")]),
    "a.lab": ("yes", [("yes", 0.0, None, "")]),
    "a.srt": (
        "1\n00:00:01,500 --> 00:00:02,000\n<i>One</i>\ntwo\n\n"
        "2\n00:01:00,0 --> 00:01:02,5\nThree\n",
        [("One two", 1.5, 2.0, ""), ("Three", 60.0, 62.5, "")],
    ),
    "a.vtt": (
        "WEBVTT\n\n00:01.000 --> 00:02.250 align:start\n<v Ann>Hi\n\nNOTE no cue\n",
        [("Hi", 1.0, 2.25, "Ann")],
    ),
}


@pytest.mark.parametrize("name", BESIDE)
def test_transcripts_beside_recordings(name, tmp_path):
    text, expected = BESIDE[name]
    write(tmp_path, {"a.wav": "", name: text})
    rows = list(read_beside(tmp_path / "a.wav"))
    assert [(r.text, r.start, r.end, r.speaker) for r in rows] == expected


def test_audacity_labels(tmp_path):
    text = "0.500000\t1.250000\tyes\n\\\t100.0\t200.0\n2.0\t1.0\tbackwards\n3.0\t4.0\tno\n"
    write(tmp_path, {"a.wav": "", "a.txt": text})
    first, _, last = read_beside(tmp_path / "a.wav")
    assert (first.text, first.start, first.end) == ("yes", 0.5, 1.25)
    assert (last.text, last.start, last.end) == ("no", 3.0, 4.0)


def test_textgrid(tmp_path):
    textgrid = pytest.importorskip("praatio.textgrid")
    grid = textgrid.Textgrid()
    grid.addTier(textgrid.IntervalTier("phones", [(0, 0.5, "h")], 0, 3))
    grid.addTier(textgrid.IntervalTier("words", [(0.5, 1.0, "hello"), (1.5, 2.0, "you")], 0, 3))
    grid.save(str(tmp_path / "a.TextGrid"), "long_textgrid", True)
    write(tmp_path, {"a.wav": "", "b.wav": "", "b.TextGrid": "nothing of the kind"})
    rows = list(read_beside(tmp_path / "a.wav"))
    assert [(r.text, r.start, r.end) for r in rows] == [("hello", 0.5, 1.0), ("you", 1.5, 2.0)]
    assert [r.reason for r in read_beside(tmp_path / "b.wav")] == ["transcript file"]


def test_elan(tmp_path):
    elan = pytest.importorskip("pympi.Elan")
    file = elan.Eaf()
    file.add_tier("speech", part="Ann")
    file.add_annotation("speech", 500, 1500, "good day")
    file.to_file(str(tmp_path / "a.eaf"))
    write(tmp_path, {"a.wav": "", "b.wav": "", "b.eaf": "nothing of the kind"})
    (row,) = read_beside(tmp_path / "a.wav")
    assert (row.text, row.start, row.end, row.speaker) == ("good day", 0.5, 1.5, "Ann")
    assert [r.reason for r in read_beside(tmp_path / "b.wav")] == ["transcript file"]


def test_a_recording_without_a_transcript_is_a_bad_row(tmp_path):
    write(tmp_path, {"a.wav": ""})
    (row,) = read_beside(tmp_path / "a.wav")
    assert row.reason == "no transcript"


# --- tables


def rows_of(tmp_path, name, text, **options):
    write(tmp_path, {name: text})
    return list(read_table(tmp_path / name, tmp_path, TableOptions(**options)))


def test_segments_of_nemo_lines(tmp_path):
    lines = [
        {"audio_filepath": "a.wav", "offset": 1.5, "duration": 0.5, "text": "one"},
        {"audio_filepath": "a.wav", "duration": 3.0, "text": "all"},
        {"audio_filepath": "a.wav", "offset": -1, "duration": 0.5, "text": "bad"},
    ]
    one, whole, bad = rows_of(tmp_path, "t.jsonl", "\n".join(map(json.dumps, lines)))
    assert (one.start, one.end, one.declared) == (1.5, 2.0, None)
    assert (whole.start, whole.end, whole.declared) == (0.0, None, 3.0)
    assert bad.reason == "time"


def test_segments_of_a_table_with_start_end_and_channel(tmp_path):
    text = "file,start_ms,end_ms,channel,sentence\na.wav,500,1500,0,x\na.wav,2000,2500,1,y\n"
    rows = rows_of(tmp_path, "t.csv", text)
    assert [(r.start, r.end, r.channel) for r in rows] == [(0.5, 1.5, 1), (2.0, 2.5, 2)]
    rows = rows_of(tmp_path, "t.csv", text.replace(",0,x", ",2,x"))
    assert [r.channel for r in rows] == [2, 1]


def test_one_bad_row_does_not_stop_a_table(tmp_path):
    rows = rows_of(
        tmp_path, "t.tsv", "path\ttext\na.wav\tyes\nb.wav\tno\tperhaps\n\tx\nc.wav\tno\n"
    )
    assert [getattr(r, "reason", r.text if isinstance(r, Row) else "") for r in rows] == [
        "yes",
        "row",
        "no audio",
        "no",
    ]
    assert rows[1].where.endswith("t.tsv:3")


def test_tables_of_other_toolkits(tmp_path):
    coqui = "wav_filename,wav_filesize,transcript\na.wav,12,hello\n"
    assert rows_of(tmp_path, "c.csv", coqui)[0].text == "hello"
    semicolons = "file_name;transcription\na.wav;one, two\n"
    assert rows_of(tmp_path, "s.csv", semicolons)[0].text == "one, two"
    (row,) = rows_of(
        tmp_path, "h.csv", "x|a|b\n", columns=("id", "raw", "text"), audio_template="wavs/{id}.wav"
    )
    assert (row.audio, row.text) == (tmp_path / "wavs/x.wav", "b")
    data = {"version": 1, "data": [{"audio": {"path": "a.wav"}, "text": "one"}]}
    assert rows_of(tmp_path, "d.json", json.dumps(data))[0].audio == tmp_path / "a.wav"
    with gzip.open(tmp_path / "z.tsv.gz", "wt") as file:
        file.write("path\ttext\na.wav\tyes\n")
    (row,) = read_table(tmp_path / "z.tsv.gz", tmp_path, TableOptions())
    assert row.text == "yes"


def test_split_columns(tmp_path):
    text = "path\ttext\tsplit\na.wav\tyes\ttrain\nb.wav\tno\tdev\n"
    assert [r.split for r in rows_of(tmp_path, "t.tsv", text)] == ["train", "valid"]
    other = text.replace("dev", "batch 7")
    assert [r.split for r in rows_of(tmp_path, "t.tsv", other)] == ["", ""]
    rows = rows_of(tmp_path, "t.tsv", other, split_column="split")
    assert [getattr(r, "reason", "") for r in rows] == ["", "split"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("clip\ttext\na\tb\n", {}, "no column path .*it has clip, text.*--audio_column"),
        ("path\twords_\na\tb\n", {}, "--text_column"),
        ("path\ttext\na\tb\n", {"speaker_column": "who"}, "no column who.*--speaker_column"),
        ("path\ttext\na\tb\n", {"audio_template": "{no}.wav"}, "no column no"),
    ],
)
def test_a_missing_column_is_named(tmp_path, text, options, message):
    with pytest.raises(UserError, match=message):
        rows_of(tmp_path, "t.tsv", text, **options)
