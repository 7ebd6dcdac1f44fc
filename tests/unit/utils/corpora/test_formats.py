"""Corpora as they lie on disk: each format's rows, from a made-up sample of two or three."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from utils.corpora.layouts import LAYOUTS, corpus_below, layout_of, read_mls
from utils.corpora.rows import BadRow, Row, subset_named, subset_of_folders
from utils.corpora.sources import SourceOptions, read_source
from utils.corpora.tables import TableOptions, read_table
from utils.corpora.timed_text import TranscriptOptions, audio_named, read_beside
from utils.data import import_corpus
from wav2vec2.audio.source import recording_key
from wav2vec2.cli.errors import UserError
from wav2vec2.files.filelists import read_labels, read_manifest
from wav2vec2.text.cleanup import CleanupOptions, clean

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
    "voxforge": (
        {
            "ann-20080425-tms/etc/PROMPTS": "ann-20080425-tms/mfc/a0001 WAS IT\n",
            "ann-20080425-tms/wav/a0001.wav": "",
            "anonymous-2010-a/etc/prompts-original": "b-2 good day\n",
            "anonymous-2010-a/flac/b-2.flac": "",
        },
        {
            ("ann-20080425-tms/wav/a0001.wav", "WAS IT", "ann", ""),
            ("anonymous-2010-a/flac/b-2.flac", "good day", "anonymous-2010-a", ""),
        },
    ),
    "librilight": (
        {
            "small/960/holland_64kb/one.flac": "",
            "small/960/holland_64kb/one.json": (
                '{"speaker": "960", "book_meta": {"id": "319"}, "voice_activity": [[0.4, 2.3]]}'
            ),
            "small/31/tales/two.wav": "",
            "small/31/tales/two.json": '{"speaker": "31", "book_meta": {}}',
        },
        {
            ("small/960/holland_64kb/one.flac", None, "960", ""),
            ("small/31/tales/two.wav", None, "31", ""),
        },
    ),
    "tables": (
        {
            "train.csv": "wav_filename,wav_filesize,transcript\nclip/a.wav,9,one\n",
            "dev_manifest.json": '{"audio_filepath": "clip/b.wav", "text": "two"}\n',
            "notes.csv": "a,b\n1,2\n",
            "clip/a.wav": "",
            "clip/b.wav": "",
        },
        {("clip/a.wav", "one", "", "train"), ("clip/b.wav", "two", "", "valid")},
    ),
}
"""Format -> its files, and (path, text, speaker, split) of its rows, with times."""

VARIANTS = {
    "Libri-light's labelled hours": (
        "librispeech",
        {
            "1h/0/clean/5/7/5-7.trans.txt": "5-7-0000 GO ON\n",
            "1h/0/clean/5/7/5-7-0000.flac": "",
        },
        {("1h/0/clean/5/7/5-7-0000.flac", "GO ON", "5", "")},
    ),
    "an unpacked archive": (
        "ljspeech",
        {
            "LJSpeech-1.1/metadata.csv": "LJ1|Mr. Ray|Mister Ray\nLJ2|so|\n",
            "LJSpeech-1.1/wavs/LJ1.wav": "",
            "LJSpeech-1.1/wavs/LJ2.wav": "",
        },
        {
            ("LJSpeech-1.1/wavs/LJ1.wav", "Mister Ray", "", ""),
            ("LJSpeech-1.1/wavs/LJ2.wav", "so", "", ""),
        },
    ),
    "Common Voice without its split": (
        "commonvoice",
        {
            "clips/a.mp3": "",
            "clips/b.mp3": "",
            "validated.tsv": "client_id\tpath\tsentence\nx1\ta.mp3\tYes.\nx2\tb\tNo.\n",
            "other.tsv": "client_id\tpath\tsentence\nx3\tc.mp3\tUnchecked.\n",
        },
        {("clips/a.mp3", "Yes.", "x1", ""), ("clips/b.mp3", "No.", "x2", "")},
    ),
    "Common Voice with other.tsv alone": (
        "commonvoice",
        {
            "clips/c.mp3": "",
            "other.tsv": "client_id\tpath\tsentence\nx3\tc.mp3\tUnchecked.\n",
        },
        {("clips/c.mp3", "Unchecked.", "x3", "")},
    ),
    "one subset of MLS": (
        "mls",
        {"transcripts.txt": "9_7_000001\tbonjour\n", "audio/9/7/9_7_000001.opus": ""},
        {("audio/9/7/9_7_000001.opus", "bonjour", "9", "")},
    ),
    "VoxPopuli's original table": (
        "voxpopuli",
        {
            "2018/20180613-0900-PLENARY-3-en_1.ogg": "",
            "asr_en.tsv": (
                "session_id|id_|original_text|normed_text|speaker_id|split|gender|vad\n"
                "20180613-0900-PLENARY|3-en_1|A, b.|a b|None|dev|female|[[0.0, 1.5]]\n"
            ),
        },
        {("2018/20180613-0900-PLENARY-3-en_1.ogg", "a b", "", "valid")},
    ),
    "TED-LIUM 3": (
        "tedlium",
        {
            "data/sph/Ann.sph": "",
            "data/stm/Ann.stm": "Ann 1 Ann 0 1 <NA> twice\n",
            "legacy/test/sph/Ann.sph": "",
            "legacy/test/stm/Ann.stm": (
                "Ann 1 Ann 1.5 3.25 <o,f0,female> {NOISE} what 's the(2) <unk> {UH} they 've\n"
                "Ann 1 Ann 3.25 3.5 <F0_F> <sil> 'tis so\n"
            ),
        },
        {
            (
                *("legacy/test/sph/Ann.sph", "{NOISE} what's the <unk> UH they've"),
                *("Ann", "test", 1.5, 3.25),
            ),
            ("legacy/test/sph/Ann.sph", "'tis so", "Ann", "test", 3.25, 3.5),
        },
    ),
    "TIMIT in small letters": (
        "timit",
        {
            "train/dr1/fcjf0/sa1.wav": "",
            "train/dr1/fcjf0/sa1.phn": "0 100 h#\n",
            "train/dr1/fcjf0/sa1.txt": "0 46797 She had your dark suit.\n",
        },
        {("train/dr1/fcjf0/sa1.wav", "She had your dark suit.", "fcjf0", "train")},
    ),
    "VCTK with one microphone": (
        "vctk",
        {
            "txt/p225/p225_001.txt": "Please call Stella.\n",
            "wav48/p225/p225_001.wav": "",
            "wav48/p315/p315_001.wav": "",
        },
        {("wav48/p225/p225_001.wav", "Please call Stella.", "p225", "")},
    ),
    "an audio folder with one list": (
        "audiofolder",
        {
            "data/metadata.jsonl": (
                '{"file_name": "train/a.wav", "text": "one"}\n'
                '{"file_name": "validation/b.wav", "text": "two"}\n'
            ),
            "data/train/a.wav": "",
            "data/validation/b.wav": "",
        },
        {
            ("data/train/a.wav", "one", "", "train"),
            ("data/validation/b.wav", "two", "", "valid"),
        },
    ),
    "one table": (
        "tables",
        {"list.tsv": "Path\tSentence\na.wav\tyes\n", "a.wav": ""},
        {("a.wav", "yes", "", "")},
    ),
}
"""Another form of a format -> the format, its files, its rows."""
ALL = {**{name: (name, *sample) for name, sample in SAMPLES.items()}, **VARIANTS}


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


def test_every_layout_has_a_sample():
    binary = {"nemo", "parquet", "arrow", "webdataset"}  # written by tests of containers
    assert set(SAMPLES) == set(LAYOUTS) - binary


@pytest.mark.parametrize("name", ALL)
def test_every_layout_is_recognised_and_read(name, tmp_path):
    layout, files, expected = ALL[name]
    place = corpus_below(write(tmp_path, files))
    assert layout_of(place) == layout
    assert summary(LAYOUTS[layout].read(place), tmp_path) == expected


def write_audio(path: Path, seconds: float, seed: int) -> None:
    noise = 0.2 * np.random.default_rng(seed).standard_normal(round(seconds * 16_000)).clip(-4, 4)
    opus = {"format": "OGG", "subtype": "OPUS"}
    formats = {".opus": opus, ".sph": {"format": "NIST", "subtype": "PCM_16"}}
    formats[".WAV"] = formats[".sph"]  # TIMIT's
    soundfile.write(path, noise, 16_000, **formats.get(path.suffix, {}))


@pytest.mark.parametrize("name", ALL)
def test_every_layout_is_imported_whole(name, tmp_path, monkeypatch):
    """Ids, durations, texts and subsets of the data set are those of the sample."""
    layout, files, expected = ALL[name]
    write(tmp_path / "in", files)
    seconds = {}
    for index, file in enumerate(sorted(name for name, text in files.items() if not text)):
        seconds[file] = 3.0 if name == "lhotse" else 4 + index / 4  # Lhotse's is declared
        write_audio(tmp_path / "in" / file, seconds[file], index)
    flags = ["--audio_dir", tmp_path / "in", "--output_dir", tmp_path / "out", "--workers", "1"]
    flags += ["--allow_shared_speakers", "true", "--drop_pattern", "<unk>", r"\{NOISE\}"]
    monkeypatch.setattr(sys, "argv", ["import_corpus", *map(str, flags)])
    skipped = {"kaldi", "VCTK with one microphone"}
    assert import_corpus.main() == (1 if name in skipped else 0)
    found = {}
    for subset in ("train", "valid", "test"):
        if (tmp_path / "out" / f"{subset}.tsv").exists():
            manifest = read_manifest(tmp_path / "out", subset)
            labels = tmp_path / "out" / f"{subset}.wrd"
            words = read_labels(manifest, "wrd") if labels.exists() else {}
            for u in manifest.utterances:
                found[u.id] = (u.samples / 16_000, words.get(u.id), subset)
    root = corpus_below(tmp_path / "in")
    options = CleanupOptions(drop_pattern=("<unk>", r"\{NOISE\}"))
    for path, text, _, split, *times in expected:
        if path not in seconds:  # a command
            continue
        key = recording_key(tmp_path / "in" / path, root)
        if times:
            start, end = times[0], times[1] or seconds[path]
            key += f"_{round(1000 * start):07d}" + ("_channel1" if layout == "tedlium" else "")
        else:
            start, end = 0.0, seconds[path]
        length, words, subset = found.pop(key)
        assert length == pytest.approx(end - start, abs=0.1 if path.endswith("mp3") else 0.001)
        assert words == (text and clean(text, options))
        assert subset == split or not split or (split == "train" and subset == "valid")
    assert not found


def test_timit_gives_phonemes(tmp_path, monkeypatch):
    files = dict(SAMPLES["timit"][0])
    files["TRAIN/DR1/FCJF0/SA1.PHN"] = "0 100 h#\n100 900 sh\n900 2000 ax-h\n"
    write(tmp_path / "in", files)
    for index, name in enumerate(name for name, text in files.items() if not text):
        write_audio(tmp_path / "in" / name, 1.0, index)
    flags = ["--audio_dir", tmp_path / "in", "--output_dir", tmp_path / "out", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["import_corpus", *map(str, flags), "--units", "phonemes"])
    assert import_corpus.main() == 0
    assert (tmp_path / "out/train.phn").read_text() == "h# sh ax-h\n"
    assert (tmp_path / "out/test.phn").read_text() == "h#\n"
    assert (tmp_path / "out/dict.phn.txt").read_text() == "ax-h 1\nh# 1\nsh 1\n"
    assert not list((tmp_path / "out").glob("*.ltr"))


def test_limited_supervision_of_mls(tmp_path):
    lines = [f"{speaker}_7_00000{n}\tmot\n" for speaker in (8, 9) for n in (1, 2)]
    write(
        tmp_path,
        {
            "train/transcripts.txt": "".join(lines),
            "train/audio/9/7/9_7_000002.flac": "",
            "train/limited_supervision/1hr/0/handles.txt": "9_7_000002\n",
            "train/limited_supervision/1hr/1/handles.txt": "8_7_000001\n",
            "train/limited_supervision/9hr/handles.txt": "8_7_000002\n",
        },
    )
    place = tmp_path / "train" / "limited_supervision" / "1hr" / "0"
    assert layout_of(place) == "mls"
    (row,) = read_mls(place)
    assert (row.audio, row.text) == (tmp_path / "train/audio/9/7/9_7_000002.flac", "mot")
    assert [row.speaker for row in read_mls(place.parent)] == ["8", "9"]


def test_the_original_table_of_voxpopuli_may_be_compressed(tmp_path):
    _, files, expected = VARIANTS["VoxPopuli's original table"]
    write(tmp_path, {name: text for name, text in files.items() if not text})
    with gzip.open(tmp_path / "asr_en.tsv.gz", "wt", encoding="utf-8") as file:
        file.write(files["asr_en.tsv"])
    assert layout_of(tmp_path) == "voxpopuli"
    assert summary(LAYOUTS["voxpopuli"].read(tmp_path), tmp_path) == expected


def test_recordings_of_vctk_without_text_are_listed(tmp_path):
    write(tmp_path, VARIANTS["VCTK with one microphone"][1])
    write(tmp_path, {"txt/p280/p280_001.txt": "Gone."})
    bad = [row for row in LAYOUTS["vctk"].read(tmp_path) if isinstance(row, BadRow)]
    assert [row.reason for row in bad] == ["no transcript", "missing"]


def test_recordings_by_their_names_without_suffix(tmp_path):
    write(
        tmp_path,
        {"a/x.flac": "", "a/x.wav": "", "a/e\u0301.OGG": "", "a/x.txt": "", "a/1.5.mp3": ""},
    )
    assert audio_named(tmp_path, "a/x") == tmp_path / "a/x.flac"
    assert audio_named(tmp_path / "a", "x.wav") == tmp_path / "a/x.wav"
    assert audio_named(tmp_path / "a", "\xe9") == tmp_path / "a/e\u0301.OGG"
    assert audio_named(tmp_path / "a", "1.5") == tmp_path / "a/1.5.mp3"
    assert audio_named(tmp_path / "a", "gone") == tmp_path / "a/gone"
    assert audio_named(tmp_path / "no", "gone") == tmp_path / "no/gone"


def test_several_tables_are_no_guess(tmp_path):
    write(tmp_path, {"a.tsv": "path\ttext\nx\ty\n", "b.tsv": "path\ttext\nx\ty\n"})
    with pytest.raises(UserError, match="a.tsv, b.tsv.*--table"):
        list(LAYOUTS["tables"].read(tmp_path))


def test_ljspeech_by_its_table(tmp_path):
    write(tmp_path, SAMPLES["ljspeech"][0])
    options = SourceOptions(output_dir="o", table=str(tmp_path / "metadata.csv"))
    (utterance,), _ = read_source(options, TableOptions())
    assert utterance.text == 'In fourteen fifty-five, "he"'


def test_corpora_below_a_folder_of_audio_are_named(tmp_path, capsys):
    for language in ("de", "fr"):
        write(tmp_path / language, SAMPLES["commonvoice"][0])
    read_source(SourceOptions(output_dir="o", audio_dir=str(tmp_path)), TableOptions())
    assert capsys.readouterr().out.count("has transcripts (format commonvoice)") == 2


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
    path.write_bytes(b"\xff\xff")
    reasons = {row.reason for row in LAYOUTS[name].read(tmp_path) if isinstance(row, BadRow)}
    assert reasons == {"transcript file"}


@pytest.mark.parametrize("name", ["librispeech", "mls", "tedlium", "voxforge", "an4", "tables"])
def test_a_list_that_cannot_be_read_is_a_bad_row(name, tmp_path):
    """The others are read."""
    files = {**SAMPLES[name][0]}
    if name == "tedlium":
        files |= {"dev/stm/Bob.stm": "Bob 1 Bob 0 1 <NA> yes\n"}
    write(tmp_path, files)
    marks = (".trans.txt", "transcripts.txt", ".stm", "PROMPTS", "train.csv", "train.fileids")
    path = next(p for p in sorted(tmp_path.rglob("*")) if p.name.endswith(marks))
    path.write_bytes(b"\xff\xff")
    rows = list(LAYOUTS[name].read(tmp_path))
    assert any(isinstance(row, Row) for row in rows)
    if name != "tables":  # a table without a header's columns is none
        assert [r.reason for r in rows if isinstance(r, BadRow)] == ["transcript file"]


@pytest.mark.parametrize("name", ["a.txt", "a.srt"])
def test_one_beside_a_recording_too(name, tmp_path):
    write(tmp_path, {"a.wav": ""})
    (tmp_path / name).write_bytes(b"\xff\xff")
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


@pytest.mark.parametrize(
    ("parts", "root", "strict", "subset"),
    [
        (("train-mini", "7"), "corpus", False, "train"),
        ((), "dev-other", False, "valid"),
        ((), "test recordings", False, ""),
        ((), "cv", False, ""),
        (("test mic", "a"), "x", True, ""),
        (("Train", "a"), "x", True, "train"),
    ],
)
def test_names_of_folders(parts, root, strict, subset):
    assert subset_of_folders(parts, root, strict) == subset


# --- transcripts beside recordings

BESIDE = {
    "a.txt": ("Hello\nthere.\n", [("Hello there.", 0.0, None, "")]),
    "a.lab": ("yes", [("yes", 0.0, None, "")]),
    "a.wav.txt": ("yes", [("yes", 0.0, None, "")]),
    "a.srt": (
        "1\n00:00:01,500 --> 00:00:02,000\n<i>One</i>\ntwo\n\n"
        "2\n00:01:00,0 --> 00:01:02,5\n{\\an8}Three\n",
        [("One two", 1.5, 2.0, ""), ("Three", 60.0, 62.5, "")],
    ),
    "a.vtt": (
        "WEBVTT - a --> b\n\nNOTE 00:00.000 --> 00:01.000\nno cue\n\n"
        "1\n00:01.000 --> 00:02.250 align:start\n<v Ann>Hi <00:01.500><c.x>R&amp;B</c>\n\n"
        "00:02.000 --> 01:00:03.000\n- over\n- lapping\n\nNOTE no cue\n",
        [("Hi R&B", 1.0, 2.25, "Ann"), ("- over - lapping", 2.0, 3603.0, "")],
    ),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", BESIDE)
def test_transcripts_beside_recordings(name, encoding, tmp_path):
    text, expected = BESIDE[name]
    write(tmp_path, {"a.wav": ""})
    (tmp_path / name).write_bytes(text.replace("\n", "\r\n").encode(encoding))
    rows = list(read_beside(tmp_path / "a.wav"))
    assert [(r.text, r.start, r.end, r.speaker) for r in rows] == expected


@pytest.mark.parametrize(
    ("audio", "transcript", "suffix"),
    [
        ("corpus/wav/s1/a.wav", "corpus/txt/s1/a.txt", ""),
        ("corpus/audio/a.flac", "corpus/transcripts/a.lab", ""),
        ("a.wav", "a.mb", ".mb"),
        ("a.wav", "a.normalized.txt", ".normalized.txt"),
    ],
)
def test_where_transcripts_lie(audio, transcript, suffix, tmp_path):
    write(tmp_path, {audio: "", transcript: "yes"})
    (row,) = read_beside(tmp_path / audio, TranscriptOptions(transcript_suffix=suffix))
    assert (row.audio, row.text) == (tmp_path / audio, "yes")


def test_audacity_labels(tmp_path):
    text = "0,500000\t1,250000\tyes\n\\\t100.0\t200.0\n2.0\t1.0\tbackwards\nnone\n3.0\t4.0\tno\n"
    write(tmp_path, {"a.wav": "", "a.txt": text})
    first, _, bad, last = read_beside(tmp_path / "a.wav")
    assert (first.text, first.start, first.end) == ("yes", 0.5, 1.25)
    assert (bad.reason, bad.where) == ("row", f"{tmp_path / 'a.txt'}:4")
    assert (last.text, last.start, last.end) == ("no", 3.0, 4.0)


@pytest.mark.parametrize(
    ("form", "encoding"),
    [("long_textgrid", "utf-8"), ("short_textgrid", "utf-8"), ("long_textgrid", "utf-16")],
)
def test_textgrid(form, encoding, tmp_path):
    textgrid = pytest.importorskip("praatio.textgrid")
    grid = textgrid.Textgrid()
    words = [(0.5, 1.0, "hello"), (1.1, 1.4, "you"), (1.8, 2.0, "né")]
    grid.addTier(textgrid.IntervalTier("phones", [(0, 0.5, "h")], 0, 3))
    grid.addTier(textgrid.IntervalTier("words", words, 0, 3))
    path = tmp_path / "a.TextGrid"
    grid.save(str(path), form, True)
    path.write_bytes(path.read_text("utf-8").encode(encoding))
    write(tmp_path, {"a.wav": "", "b.wav": "", "b.TextGrid": "nothing of the kind"})
    rows = list(read_beside(tmp_path / "a.wav"))  # a pause ends an utterance
    assert [(r.text, r.start, r.end) for r in rows] == [("hello you", 0.5, 1.4), ("né", 1.8, 2.0)]
    assert [r.reason for r in read_beside(tmp_path / "b.wav")] == ["transcript file"]


def test_tiers_of_a_textgrid(tmp_path):
    textgrid = pytest.importorskip("praatio.textgrid")
    grid = textgrid.Textgrid()
    for name, text in (("words", "w"), ("Ann", "hello there"), ("Bob", "yes")):
        grid.addTier(textgrid.IntervalTier(name, [(0.5, 1.0, text)], 0, 3))
    grid.save(str(tmp_path / "a.TextGrid"), "long_textgrid", True)
    write(tmp_path, {"a.wav": ""})
    read, other = read_beside(tmp_path / "a.wav")
    assert read.text == "hello there"
    assert other.reason == "other tier" and "'Bob' is not read but 'Ann'" in other.detail
    both = read_beside(tmp_path / "a.wav", TranscriptOptions(tier="Ann|Bob"))
    assert [row.text for row in both] == ["hello there", "yes"]
    (bad,) = read_beside(tmp_path / "a.wav", TranscriptOptions(tier="Cy"))
    assert bad.reason == "transcript file" and "no tier 'Cy'" in bad.detail


def test_elan(tmp_path):
    elan = pytest.importorskip("pympi.Elan")
    file = elan.Eaf()
    file.add_linguistic_type("notes")
    for tier, person, text in (("speech", "Ann", "good day"), ("other", "Bob", "yes")):
        file.add_tier(tier, part=person)
        file.add_annotation(tier, 500, 1500, text)
    file.add_tier("remarks", ling="notes")
    file.add_annotation("remarks", 0, 100, "noisy")
    file.to_file(str(tmp_path / "a.eaf"))
    write(tmp_path, {"a.wav": "", "b.wav": "", "b.eaf": "nothing of the kind"})
    *rows, note = read_beside(tmp_path / "a.wav")
    assert [(r.text, r.start, r.end, r.speaker) for r in rows] == [
        ("good day", 0.5, 1.5, "Ann"),
        ("yes", 0.5, 1.5, "Bob"),
    ]
    assert note.reason == "other tier" and "remarks" in note.detail
    (row,) = read_beside(tmp_path / "a.wav", TranscriptOptions(tier="remarks"))
    assert row.text == "noisy"
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


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("t.tsv", "path\ttext\r\na.wav\tné\r\n".encode("utf-8-sig"), {}),
        ("t.tsv", "path\ttext\na.wav\tné\n".encode("utf-16"), {}),
        ("t.csv", "PATH , Text\na.wav,né\n".encode(), {}),
        ("t.tsv", '"path"\t"text"\n"a.wav"\t"né"\n'.encode(), {}),
        ("t.csv", '"path";"text"\n"a.wav";"né"\n'.encode(), {}),
        ("t.csv", "a.wav|né, oui, non\n".encode(), {"columns": ("path", "text")}),
        ("t.psv", "a.wav|né\n".encode(), {"columns": ("path", "text"), "delimiter": "|"}),
        ("t.jsonl", b'{"Audio File": "a.wav", "text": "n\\u00e9"}\r\n', {}),
        ("t.json", b'[{"file_name": "a.wav", "transcription": "n\\u00e9"}]', {}),
        ("t.tsv", "name\ttext\na\tné\n".encode(), {"audio_template": "{name}.wav"}),
        ("t.tsv", "path\ttext\na\tné\n".encode(), {}),
    ],
)
def test_tables_as_programs_write_them(tmp_path, name, content, options):
    write(tmp_path, {"a.wav": ""})
    (tmp_path / name).write_bytes(content)
    format = "csv" if name == "t.psv" else ""
    (row,) = read_table(tmp_path / name, tmp_path, TableOptions(**options), format)
    assert (row.audio, row.text.split(",")[0]) == (tmp_path / "a.wav", "né")


def test_bad_rows_spoil_themselves_alone(tmp_path):
    lines = [
        "path,text",
        "a.wav,one",
        'b.wav,"two" and',
        'c.wav,"three',
        "d.wav,four",
        "e.wav,fi\xe9",
    ]
    (tmp_path / "t.csv").write_bytes("\n".join([*lines, "f.wav,six", ""]).encode("latin-1"))
    rows = list(read_table(tmp_path / "t.csv", tmp_path, TableOptions()))
    assert [(getattr(row, "reason", ""), row.where.rpartition(":")[2]) for row in rows] == [
        *(("", "2"), ("row", "3"), ("row", "4")),
        *(("", "5"), ("not UTF-8", "6"), ("", "7")),
    ]
    objects = [
        '{"path": "a.wav", "text": "a"}',
        '{"path": "b.wav"}',
        '{"path": "c.wav", "text": ""}',
    ]
    reasons = [
        getattr(row, "reason", "") for row in rows_of(tmp_path, "t.jsonl", "\n".join(objects))
    ]
    assert reasons == ["", "no column", ""]


def test_ids_of_a_column(tmp_path):
    text = "path\ttext\tn\nx/a.wav\tone\tu 1\nx/b.wav\ttwo\tu/2.5\nx/c.wav\tthree\tu 1\n"
    write(tmp_path, {"t.tsv": text})
    options = SourceOptions(output_dir="o", table=str(tmp_path / "t.tsv"))
    found, bad = read_source(options, TableOptions(id_column="n"))
    assert [utterance.id for utterance in found] == ["u_1", "u_2.5"]
    assert [(row.reason, row.where) for row in bad] == [("id named twice", f"{tmp_path}/t.tsv:4")]


def test_speakers_in_paths(tmp_path):
    write(
        tmp_path,
        {
            "ann/1.wav": "",
            "bob/1.wav": "",
            "1.wav": "",
            "t.tsv": "path\ttext\nann/1.wav\ta\n1.wav\tb\n",
        },
    )
    pattern = {"output_dir": "o", "speaker_pattern": "^(.+?)/"}
    found, _ = read_source(
        SourceOptions(audio_dir=str(tmp_path), **pattern, format="audio"), TableOptions()
    )
    assert [utterance.speaker for utterance in found] == ["", "ann", "bob"]
    found, bad = read_source(
        SourceOptions(table=str(tmp_path / "t.tsv"), **pattern), TableOptions()
    )
    assert [utterance.speaker for utterance in found] == ["ann"]
    assert [row.reason for row in bad] == ["no speaker"]
    with pytest.raises(UserError, match="has no group"):
        SourceOptions(audio_dir="x", output_dir="o", speaker_pattern="ann")


def test_pieces_of_one_recording_stay_together(tmp_path):
    options = SourceOptions(table=str(tmp_path / "t.tsv"), output_dir="o")
    for recordings in ("abc", "ab"):  # of two, pieces can only be drawn one by one
        lines = [f"{name}.wav\t{start}\t{start + 1}\tx" for name in recordings for start in (0, 1)]
        write(tmp_path, {"t.tsv": "\n".join(["path\tstart\tend\ttext", *lines])})
        found, _ = read_source(options, TableOptions())
        groups = {utterance.group for utterance in found}
        assert groups == (
            {str(tmp_path / f"{n}.wav") for n in "abc"} if len(recordings) == 3 else {""}
        )


def test_pieces_that_begin_together_have_ids_of_their_own(tmp_path):
    times = [("1", "2"), ("1", "3"), ("1", ""), ("1.0001", "3.0001"), ("1", "2")]
    lines = ["path\tstart\tend\ttext", *(f"x.wav\t{a}\t{b}\tone" for a, b in times)]
    write(tmp_path, {"t.tsv": "\n".join(lines)})
    options = SourceOptions(table=str(tmp_path / "t.tsv"), output_dir="o")
    found, bad = read_source(options, TableOptions())
    assert [u.id for u in found] == ["x_0001000", "x_0001000_0003000", "x_0001000_end"]
    assert [row.reason for row in bad] == ["named twice", "named twice"]


def test_transcripts_of_later_recordings_are_found(tmp_path):
    write(tmp_path, {**{f"{n:03}.wav": "" for n in range(300)}, "299.txt": "yes"})
    options = SourceOptions(audio_dir=str(tmp_path), output_dir="o")
    found, bad = read_source(options, TableOptions())
    assert [utterance.text for utterance in found] == ["yes"]
    assert len(bad) == 299


def test_folders_tell_subsets_only_if_they_do_for_all(tmp_path):
    names = ["train/a.wav", "dev/b.wav", "test/c.wav"]
    write(tmp_path, {**dict.fromkeys(names, ""), "train/a.txt": "a", "dev/b.txt": "b"})
    options = {"audio_dir": str(tmp_path), "output_dir": "o"}
    found, _ = read_source(SourceOptions(**options), TableOptions())
    assert [utterance.split for utterance in found] == ["valid", "train"]
    found, _ = read_source(SourceOptions(**options, format="audio"), TableOptions())
    assert [utterance.split for utterance in found] == ["valid", "test", "train"]
    write(tmp_path, {"more/d.wav": ""})
    found, _ = read_source(SourceOptions(**options, format="audio"), TableOptions())
    assert {utterance.split for utterance in found} == {""}
    found, _ = read_source(SourceOptions(**options, format="audio", split="test"), TableOptions())
    assert {utterance.split for utterance in found} == {"test"}


def test_composed_names_in_the_table_are_decomposed_on_disk(tmp_path):
    write(
        tmp_path,
        {"e\u0301t\xe9/e\u0301.wav": "", "t.tsv": "path\ttext\ne\u0301t\xe9/\xe9.wav\ta\n"},
    )
    (utterance,), _ = read_source(
        SourceOptions(table=str(tmp_path / "t.tsv"), output_dir="o"), TableOptions()
    )
    assert utterance.source.exists()


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
