"""Models of the Hugging Face Hub: an id such as facebook/wav2vec2-base-960h -> a folder here.

The library huggingface_hub downloads: into its cache, with its token and its progress bar, and
without network if HF_HUB_OFFLINE=1.  An id may end in a revision: `name@revision`.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wav2vec2.cli.errors import UserError
from wav2vec2.cli.requirements import how_to_install
from wav2vec2.files.model_folder import REFETCH, WEIGHT_FILES

_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")
_LOCAL_SUFFIXES = (".pt", ".pth", ".pt2", ".ckpt", ".bin", ".onnx", ".safetensors")
"""Endings of files: a name that has one is a path."""

_CONFIG = "config.json"
_DESCRIPTION = (
    *("preprocessor_config.json", "processor_config.json", "tokenizer_config.json", "vocab.json"),
    *("special_tokens_map.json", "added_tokens.json"),
    *("SHA256SUMS", "dictionary.txt", "sentencepiece.model"),  # of a release folder
)
"""Small files that describe a model."""


def is_hub_id(path: str | Path) -> bool:
    """Whether `path` is no local path, and may be the id of a model on the Hub."""
    text = str(path)
    return (
        _ID.fullmatch(text) is not None
        and not text.endswith(_LOCAL_SUFFIXES)
        and not os.path.exists(text)
    )


def cached_path(path: str | Path) -> Path:
    """The folder of a Hub id in the cache, if it is there; otherwise `path` itself."""
    if is_hub_id(path):
        try:
            from huggingface_hub import try_to_load_from_cache

            repository, revision = _parts(path)
            found = try_to_load_from_cache(repository, _CONFIG, revision=revision)
            if isinstance(found, str):
                return Path(found).parent
        except (ImportError, ValueError):  # no library, or an id that it does not take
            pass
    return Path(path)


def pinned(path: str | Path) -> str:
    """The Hub id `path`, of a model in the cache, with the commit that is there as its revision."""
    return f"{_parts(path)[0]}@{cached_path(path).name}"


def fetch(path: str | Path, adapter: str, check: Callable[[Path], None]) -> Path:
    """The folder in the cache with the files of the Hub id `path` that reading the model needs.

    `adapter`: the beginning of the name of an adapter's weights that are also needed; empty: none.
    `check` is called with the folder when it holds the small files, before the weights are
    fetched.  UserError in one line if anything cannot be had.
    """
    repository, revision = _parts(path)
    with _explained(str(path)):
        import huggingface_hub
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            folder = cached_path(path)
            if not folder.is_dir():
                raise UserError(
                    f"{path}: not in the cache of the Hugging Face Hub, and HF_HUB_OFFLINE is "
                    "set; unset it, or name a local path"
                )
            check(folder)
            return folder
        info = huggingface_hub.HfApi().model_info(repository, revision=revision, timeout=30)
        names = {file.rfilename for file in info.siblings or ()}

        if _CONFIG not in names:
            raise UserError(
                f"{path}: holds no wav2vec 2.0 model of transformers (it has no {_CONFIG}); give "
                "another, such as facebook/wav2vec2-base-960h"
            )
        # The branch that was asked for, so that it is found without network; its folder has the
        # name of the commit, which all other files are taken from.
        first = huggingface_hub.hf_hub_download(repository, _CONFIG, revision=revision)
        folder = Path(first).parent

        def get(name: str) -> Path:
            return Path(huggingface_hub.hf_hub_download(repository, name, revision=folder.name))

        for name in _DESCRIPTION:
            if name in names:
                get(name)
        check(folder)
        for name in _weights(str(path), names, adapter, lambda name: get(name).read_text("utf-8")):
            get(name)
    return folder


def fetch_folder(path: str | Path, name: str) -> None:
    """Fetch the files of the folder `name` in the repository of the fetched Hub id `path`.

    Nothing happens if it has no such folder, or HF_HUB_OFFLINE is set.  UserError as of `fetch`.
    """
    repository, _ = _parts(path)
    with _explained(str(path)):
        import huggingface_hub
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            return
        commit = cached_path(path).name
        info = huggingface_hub.HfApi().model_info(repository, revision=commit, timeout=30)
        for file in info.siblings or ():
            if file.rfilename.startswith(f"{name}/"):
                huggingface_hub.hf_hub_download(repository, file.rfilename, revision=commit)


def _parts(path: str | Path) -> tuple[str, str | None]:
    found = _ID.fullmatch(str(path))
    assert found is not None
    return found[1], found[2]


def _weights(path: str, names: set[str], adapter: str, read: Callable[[str], str]) -> Iterator[str]:
    """The files with the weights: the preferred format alone, with all its shards."""
    index = next((name for name in WEIGHT_FILES if name in names), None)
    if index is None:
        raise UserError(
            f"{path}: holds no weights that can be read here ({', '.join(WEIGHT_FILES)}); give "
            "another model"
        )
    yield index
    if index.endswith(".json"):
        shards = set(re.findall(r'"([\w.-]+\.(?:safetensors|bin))"', read(index)))
        missing = sorted(shards - names)
        if missing:
            raise UserError(f"{path}: {index} names {missing[0]}, which it lacks; {REFETCH}")
        yield from sorted(shards)
    if adapter:
        files = [f"{adapter}{suffix}" for suffix in (".safetensors", ".bin")]
        yield from [name for name in files if name in names][:1]


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turn the library's errors into one line."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"{path}: no such path; a model of the Hugging Face Hub needs the Python package "
            f"huggingface_hub; {how_to_install('huggingface_hub')}"
        ) from error
    except Exception as error:  # network errors of the library have no common base class
        raise UserError(f"{path}: {_reason(error, path)}") from None


def _reason(error: Exception, path: str) -> str:
    from huggingface_hub import errors

    known: list[tuple[type[Exception], str]] = [
        (
            errors.GatedRepoError,
            "a gated repository of the Hugging Face Hub; accept its terms on its page, and log in "
            "with `hf auth login` or set HF_TOKEN",
        ),
        (
            errors.RevisionNotFoundError,
            f"the repository has no revision {path.partition('@')[2]!r}; check it on its page",
        ),
        (
            errors.RepositoryNotFoundError,
            "no such path, and no such repository on the Hugging Face Hub, or a private one; check "
            "the name, or log in with `hf auth login` or set HF_TOKEN",
        ),
        (errors.HFValidationError, "no such checkpoint; check the path"),
    ]
    for kind, text in known:
        if isinstance(error, kind):
            return text
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    detail = f"status {status}" if status else (str(error).splitlines() or [""])[0][:150]
    return (
        "no such path, and the Hugging Face Hub cannot be read "
        f"({type(error).__name__}: {detail}); check path and network, or set HF_HUB_OFFLINE=1 to "
        "use what was fetched before"
    )
