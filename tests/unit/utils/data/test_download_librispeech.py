"""The LibriSpeech download, against a server on this machine."""

import hashlib
import io
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from utils.data import download_librispeech
from utils.data.download_librispeech import CORPUS, MD5, DownloadOptions, download_subsets
from wav2vec2.cli.errors import UserError

SUBSET = "dev-clean"
FLAC = f"{CORPUS}/{SUBSET}/84/121123/84-121123-0000.flac"
AUDIO = bytes(range(256)) * 500


@dataclass
class Server:
    """Serves `files` and records requests in `ranges`."""

    url: str
    files: dict[str, bytes]
    resumes: bool = True
    """Whether it supports Range."""
    drops: list[int] = field(default_factory=list)
    """The next answers end after this many bytes of their body."""
    failures: list[int] = field(default_factory=list)
    """The next answers are these HTTP errors."""
    ranges: list[str | None] = field(default_factory=list)
    """The Range header of every request."""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.ranges.append(asked)
        content = self.files.get(request.path.lstrip("/"))
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.resumes else 0
        if self.failures or content is None or start >= len(content):
            code = self.failures.pop(0) if self.failures else 404 if content is None else 416
            request.send_error(code)
            return
        body = content[start:]
        request.send_response(206 if start else 200)
        if start:
            end = len(content) - 1
            request.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: self.drops.pop(0)] if self.drops else body)


def archive_of(*members: tarfile.TarInfo, subset: str = SUBSET, level: int = 0) -> bytes:
    """A .tar.gz like LibriSpeech's with the given members after its own."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=level) as tar:
        for name, content in {
            f"{CORPUS}/README.TXT": b"about",
            f"{CORPUS}/{subset}/84/121123/84-121123-0000.flac": AUDIO,
            f"{CORPUS}/{subset}/84/121123/84-121123.trans.txt": b"84-121123-0000 GO\n",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return buffer.getvalue()


ARCHIVE = archive_of()
COMPRESSED = archive_of(level=9)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *args) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{httpd.server_port}/", {f"{SUBSET}.tar.gz": ARCHIVE})
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def fetch(server: Server, tmp_path: Path) -> Callable[..., None]:
    """Download the test's subset to `tmp_path`, without waiting between attempts."""

    def run(checksum: str | None = None, **options) -> None:
        options = {"subsets": (SUBSET,), "base_url": server.url, "retries": 1, **options}
        content = server.files[f"{SUBSET}.tar.gz"]
        download_subsets(
            DownloadOptions(output_dir=str(tmp_path), **options),
            checksums={SUBSET: checksum or md5(content)},
            pause=0,
        )

    return run


def leftovers(folder: Path) -> list[str]:
    """Names beside the corpus, with hidden remains of an extraction."""
    corpus = folder / CORPUS
    hidden = [path.name for path in corpus.iterdir() if path.name.startswith(".")]
    return sorted(path.name for path in folder.iterdir() if path != corpus) + hidden


def test_checksums_are_those_openslr_publishes():
    assert MD5 == {
        "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
        "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
        "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
        "test-other": "fb5a50374b501bb3bac4815ee91d3135",
        "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
        "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
        "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
    }


def test_leaves_the_subset_and_nothing_else(fetch, server, tmp_path):
    fetch()
    assert (tmp_path / FLAC).read_bytes() == AUDIO
    assert (tmp_path / CORPUS / "README.TXT").read_bytes() == b"about"
    assert leftovers(tmp_path) == []
    assert server.ranges == [None]


def test_keeps_archives_when_asked(fetch, tmp_path):
    fetch(keep_archives=True)
    assert leftovers(tmp_path) == [f"{SUBSET}.tar.gz"]
    assert (tmp_path / f"{SUBSET}.tar.gz").read_bytes() == ARCHIVE


def test_second_run_asks_for_nothing(fetch, server, tmp_path, capsys):
    fetch()
    mark = tmp_path / CORPUS / SUBSET / "mark"
    mark.touch()
    fetch()
    assert server.ranges == [None]
    assert mark.exists()
    assert "exists, skipped" in capsys.readouterr().out


def test_an_archive_fetched_otherwise_is_used(fetch, server, tmp_path):
    (tmp_path / f"{SUBSET}.tar.gz").write_bytes(ARCHIVE)
    fetch()
    assert server.ranges == []
    assert (tmp_path / FLAC).read_bytes() == AUDIO


@pytest.mark.parametrize("resumes", [True, False], ids=["with Range", "without Range"])
def test_resumes_an_earlier_download(fetch, server, tmp_path, resumes):
    server.resumes = resumes
    (tmp_path / f"{SUBSET}.tar.gz.part").write_bytes(ARCHIVE[:1000])
    fetch()
    assert server.ranges == ["bytes=1000-"]
    assert (tmp_path / FLAC).read_bytes() == AUDIO


def test_a_complete_part_is_not_fetched_again(fetch, server, tmp_path):
    (tmp_path / f"{SUBSET}.tar.gz.part").write_bytes(ARCHIVE)
    fetch()
    assert server.ranges == [f"bytes={len(ARCHIVE)}-"]
    assert (tmp_path / FLAC).read_bytes() == AUDIO


def test_dropped_connections_are_resumed(fetch, server, tmp_path):
    # More drops than retries: each attempt that brought something starts the count again.
    server.drops = [1000, 1000, 1000, 1000]
    fetch(retries=1)
    assert server.ranges == [None, *(f"bytes={n}000-" for n in (1, 2, 3, 4))]
    assert (tmp_path / FLAC).read_bytes() == AUDIO


def test_a_server_that_always_drops_is_given_up(fetch, server, tmp_path):
    server.resumes = False
    server.drops = [1000] * 10
    with pytest.raises(UserError, match=r"3 attempts \(connection dropped\); 1000 bytes are kept"):
        fetch(retries=2)
    assert server.ranges == [None, "bytes=1000-", "bytes=1000-"]
    assert not (tmp_path / CORPUS / SUBSET).exists()


def test_an_overloaded_server_is_asked_again(fetch, server, tmp_path):
    server.failures = [503, 429]
    fetch(retries=2)
    assert (tmp_path / FLAC).exists()


def test_missing_file_is_not_asked_for_again(fetch, server):
    with pytest.raises(UserError, match=r"other/dev-clean.tar.gz: HTTP Error 404.*check --base"):
        fetch(base_url=server.url + "other")
    assert len(server.ranges) == 1


def test_unreachable_server(fetch):
    with pytest.raises(UserError, match=r"not reached in 2 attempts .*run the command again"):
        fetch(base_url="http://127.0.0.1:1/")


def test_wrong_checksum_extracts_and_deletes_nothing(fetch, tmp_path):
    expected = "0" * 32
    with pytest.raises(UserError) as error:
        fetch(checksum=expected)
    archive = tmp_path / f"{SUBSET}.tar.gz"
    assert str(archive) in str(error.value)
    assert expected in str(error.value)
    assert md5(ARCHIVE) in str(error.value)
    assert "download it again" in str(error.value)
    assert archive.read_bytes() == ARCHIVE
    assert list((tmp_path / CORPUS).iterdir()) == []


def test_disk_space_is_checked_before_downloading(fetch, tmp_path, monkeypatch):
    class Usage:
        free = len(ARCHIVE) + 1

    monkeypatch.setattr(download_librispeech.shutil, "disk_usage", lambda folder: Usage)
    with pytest.raises(UserError, match=r"--output_dir .* GiB are free; free space"):
        fetch()
    assert leftovers(tmp_path) == []


def link(kind: bytes, name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member


def regular(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = 1
    return member


@pytest.mark.parametrize(
    "member",
    [
        regular("../evil"),
        regular(f"{CORPUS}/../../../evil"),
        regular("/tmp/evil-absolute-member"),
        link(tarfile.SYMTYPE, f"{CORPUS}/{SUBSET}/link", "/etc/passwd"),
        link(tarfile.SYMTYPE, f"{CORPUS}/{SUBSET}/inner", "84"),
        link(tarfile.LNKTYPE, f"{CORPUS}/{SUBSET}/hard", "../../outside"),
        link(tarfile.FIFOTYPE, f"{CORPUS}/{SUBSET}/pipe", ""),
        link(tarfile.CHRTYPE, f"{CORPUS}/{SUBSET}/device", ""),
    ],
    ids=["parent", "nested", "absolute", "symlink", "inner symlink", "hard link", "fifo", "device"],
)
def test_malicious_members_are_refused(fetch, server, tmp_path, member):
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    server.files[f"{SUBSET}.tar.gz"] = archive_of(member)
    with pytest.raises(UserError, match="is a link or leads outside"):
        fetch()
    assert list((tmp_path / CORPUS).iterdir()) == []
    assert leftovers(tmp_path) == [f"{SUBSET}.tar.gz", "outside"]
    assert outside.read_text() == "untouched"
    assert not Path("/tmp/evil-absolute-member").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ARCHIVE[: len(ARCHIVE) // 2], "not a complete .tar.gz"),
        (b"no archive", "not a complete .tar.gz"),
        (COMPRESSED[:600] + b"\xff" * 300 + COMPRESSED[900:], "not a complete .tar.gz"),
        (COMPRESSED[:10] + b"\xff" * 300 + COMPRESSED[310:], "not a complete .tar.gz"),
        (archive_of(subset="dev-other"), "holds no LibriSpeech/dev-clean"),
    ],
    ids=["truncated", "garbage", "checksum", "damaged", "another subset"],
)
def test_half_an_archive_never_passes_for_a_subset(fetch, server, tmp_path, content, message):
    server.files[f"{SUBSET}.tar.gz"] = content
    with pytest.raises(UserError, match=message):
        fetch()
    assert list((tmp_path / CORPUS).iterdir()) == []


def test_remains_of_a_killed_extraction_are_replaced(fetch, tmp_path):
    remains = tmp_path / CORPUS / f".{SUBSET}.extracting" / CORPUS / SUBSET / "old"
    remains.mkdir(parents=True)
    fetch()
    assert (tmp_path / FLAC).exists()
    assert not (tmp_path / CORPUS / SUBSET / "old").exists()
    assert leftovers(tmp_path) == []


def test_output_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").touch()
    options = DownloadOptions(output_dir=str(tmp_path / "file"), base_url=server.url)
    with pytest.raises(UserError, match="--output_dir .*choose a folder that can be written"):
        download_subsets(options)
    assert server.ranges == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--subsets", "dev-claen"], "did you mean dev-clean?"),
        (["--subsets", "xyz"], "choose from dev-clean, dev-other"),
        (["--subsets"], "--subsets: names none"),
        (["--base_url", "openslr.org/12"], "--base_url openslr.org/12: not an address"),
        (["--base_url", "file:///etc/"], "--base_url file:///etc/: not an address"),
        (["--base_url", "http://127.0.0.1:port/"], "check --base_url"),
        (["--retries", "-1"], "--retries -1: must be at least 0"),
        (["--subset", "dev-clean"], "did you mean --subsets?"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(tmp_path, monkeypatch, capsys, flags, message):
    command = ["download_librispeech", "--output_dir", str(tmp_path), *flags]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as leaving:
        download_librispeech.run_command(download_librispeech.main)
    assert leaving.value.code == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1
    assert printed[0].startswith("error: ")
    assert message in printed[0]


def test_runs_as_a_module():
    command = [sys.executable, "-m", "utils.data.download_librispeech", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--keep_archives" in done.stdout
