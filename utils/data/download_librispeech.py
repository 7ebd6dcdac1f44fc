"""Download LibriSpeech: resumes, verifies checksums, and extracts safely.

    python -m utils.data.download_librispeech --output_dir /datasets --subsets dev-clean test-clean

Writes `<output_dir>/LibriSpeech/<subset>/...`.  Extracts no archive whose MD5 differs.
"""

import difflib
import gzip
import hashlib
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from urllib.parse import urlsplit

from utils.data.next_step import print_next_step
from wav2vec2.cli.errors import UserError, run_command
from wav2vec2.cli.flags import parse_options, require_at_least
from wav2vec2.cli.progress import Progress
from wav2vec2.files.output import require_space

MD5 = {
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
}
CORPUS = "LibriSpeech"
BLOCK = 1 << 20
TIMEOUT = 60
"""Seconds without a byte."""
BUSY = (408, 429)
"""HTTP codes below 500 that mean "try again later"."""


@dataclass(frozen=True)
class DownloadOptions:
    """Download"""

    output_dir: str = "/datasets"
    """Folder to create LibriSpeech/ in."""
    subsets: tuple[str, ...] = tuple(MD5)
    """Subsets to download; all seven take about 60 GB, and 70 GB more when unpacked."""
    base_url: str = "https://www.openslr.org/resources/12/"
    """Address of the folder of archives."""
    keep_archives: bool = False
    """Keep the .tar.gz files after extraction."""
    retries: int = 5
    """Attempts in a row that may bring nothing new; each resumes where the last one stopped."""

    def __post_init__(self) -> None:
        if not self.subsets:
            raise UserError(f"--subsets: names none; choose from {', '.join(MD5)}")
        address = urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.netloc:
            raise UserError(
                f"--base_url {self.base_url}: not an address like https://www.openslr.org/..."
            )
        require_at_least(self, retries=0)


def fetch_archive(url: str, part: Path, retries: int, pause: float = 2.0) -> None:
    """Download `url` to `part`, resuming after the bytes that it holds.

    `retries`: attempts in a row that may bring nothing new; the wait before each doubles from
    `pause` seconds.  UserError if the address cannot be reached or the disk is too small.
    """
    failures = 0
    most = _size(part)
    while True:
        try:
            _fetch_once(url, part)
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError, HTTPException) as error:
            code = getattr(error, "code", 500)  # only an HTTPError has one
            if isinstance(error, InvalidURL) or code < 500 and code not in BUSY:
                raise UserError(f"{url}: {error}; check --base_url") from None
            reason = str(error) or type(error).__name__
        if _size(part) > most:
            failures, most = 0, _size(part)
        if failures == retries:
            raise UserError(
                f"{url}: not reached in {failures + 1} attempts ({reason}); {_size(part)} bytes "
                f"are kept in {part}, run the command again to resume"
            )
        time.sleep(pause * 2**failures)
        failures += 1


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch_once(url: str, part: Path) -> None:
    """Append what one connection brings; ConnectionError if it ends before the file does."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # nothing follows what we have; the MD5 decides
            return
        raise
    with response:
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status != 206 or not resumed:  # the server sends the whole file
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        if total is not None:
            # FLAC does not compress further: unpacking takes the archive's size once more.
            require_space("--output_dir", part.parent, total - have + total)
        with (
            open(part, "ab" if have else "wb") as file,
            _bytes(f"downloading {part.stem}", total, have) as bar,
        ):
            for block in _blocks(response):
                file.write(block)
                bar.advance(len(block))
            if total is not None and file.tell() < total:
                raise ConnectionError("connection dropped")


def _bytes(title: str, total: int | None, done: int = 0) -> Progress:
    """Progress of `total` bytes; none is shown if the total is unknown."""
    return Progress(total or 0, title, "B", scale=True, initial=done, enabled=bool(total))


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    """A response's bytes; every network error becomes a ConnectionError, unlike errors of the
    disk."""
    try:
        while block := response.read(BLOCK):
            yield block
    except OSError as error:
        raise ConnectionError(str(error)) from error


def verify_archive(archive: Path, expected: str) -> None:
    """UserError if the archive's MD5 is not `expected`; the archive stays."""
    digest = hashlib.md5(usedforsecurity=False)
    size = archive.stat().st_size
    with open(archive, "rb") as file, _bytes(f"checking {archive.name}", size) as bar:
        while block := file.read(BLOCK):
            digest.update(block)
            bar.advance(len(block))
    if digest.hexdigest() != expected:
        raise UserError(
            f"{archive}: MD5 is {digest.hexdigest()}, expected {expected}; nothing was extracted: "
            "remove this file and download it again"
        )


def extract_archive(archive: Path, output_dir: Path, subset: str) -> None:
    """Unpack `LibriSpeech/<subset>` of the archive into `output_dir`, completely or not at all.

    UserError for an archive with links, devices, or members outside its own folder.
    """
    target = output_dir / CORPUS / subset
    building = output_dir / CORPUS / f".{subset}.extracting"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    inside = building.resolve()
    try:
        with (
            open(archive, "rb") as packed,
            tarfile.open(fileobj=packed, mode="r:gz") as tar,
            _bytes(f"extracting {subset}", archive.stat().st_size) as bar,
        ):
            for member in tar:
                bar.advance(packed.tell() - bar.done)
                place = (inside / member.name).resolve()
                if not (member.isfile() or member.isdir()) or not place.is_relative_to(inside):
                    raise UserError(
                        f"{archive}: member {member.name!r} is a link or leads outside the "
                        "archive's folder; nothing was kept: download it from openslr.org"
                    )
                if member.isdir():
                    place.mkdir(parents=True, exist_ok=True)
                    continue
                # Only contents, no owners or modes; Debian 12's Python lacks tarfile's filters.
                place.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as source, open(place, "wb") as file:
                    shutil.copyfileobj(source, file, BLOCK)
        unpacked = building / CORPUS
        if not (unpacked / subset).is_dir():
            raise UserError(f"{archive}: holds no {CORPUS}/{subset}; download it again")
        for extra in unpacked.iterdir():  # README.TXT, SPEAKERS.TXT and the like
            if extra.is_file():
                os.replace(extra, output_dir / CORPUS / extra.name)
        os.replace(unpacked / subset, target)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(
            f"{archive}: not a complete .tar.gz ({error}); nothing was kept: download it again"
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def download_subsets(
    options: DownloadOptions, checksums: Mapping[str, str] = MD5, pause: float = 2.0
) -> None:
    """Download, verify and extract every subset that is missing."""
    for subset in options.subsets:
        if subset not in checksums:
            near = difflib.get_close_matches(subset, list(checksums), n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(checksums)}"
            raise UserError(f"--subsets {subset}: not a LibriSpeech subset; {hint}")
    output_dir = Path(options.output_dir)
    try:
        (output_dir / CORPUS).mkdir(parents=True, exist_ok=True)
        for subset in options.subsets:
            if (output_dir / CORPUS / subset).is_dir():
                print(f"{output_dir / CORPUS / subset}: exists, skipped")
                continue
            archive = output_dir / f"{subset}.tar.gz"
            if not archive.exists():
                part = output_dir / f"{subset}.tar.gz.part"
                fetch_archive(
                    f"{options.base_url.rstrip('/')}/{subset}.tar.gz", part, options.retries, pause
                )
                os.replace(part, archive)
            verify_archive(archive, checksums[subset])
            extract_archive(archive, output_dir, subset)
            if not options.keep_archives:
                archive.unlink()
            print(f"{output_dir / CORPUS / subset}: downloaded, verified, extracted")
    except OSError as error:
        raise UserError(
            f"--output_dir {output_dir}: {error.strerror or error}; "
            "free space, or choose a folder that can be written"
        ) from None


def main() -> None:
    options = parse_options(DownloadOptions, "utils.data.download_librispeech", __doc__)
    download_subsets(options)
    print_next_step(
        "bash scripts/generate_filelists.sh",
        DATASET_DIR=Path(options.output_dir) / CORPUS,
        SUBSETS=" ".join(options.subsets),
    )


if __name__ == "__main__":
    run_command(main)
