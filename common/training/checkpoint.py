"""A run's checkpoints: written in the background, found again, removed when no longer kept."""

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wav2vec2.cli.console import notice
from wav2vec2.cli.errors import UserError
from wav2vec2.files.torch_file import load_checkpoint, read_torch_file, save_checkpoint
from wav2vec2.interop import fairseq, nvidia
from wav2vec2.interop.unpickling_stubs import STUBS, replace_stubs


def _copied(content: Any) -> Any:
    """`content` with its tensors copied to the CPU, so that training may change the originals."""
    if isinstance(content, torch.Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, dict):
        return {key: _copied(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(_copied(value) for value in content)
    return content


class CheckpointWriter:
    """Writes checkpoints in the background, one at a time.

    Training waits for a copy of the tensors; a thread writes the file.  Its error is raised by the
    next call.
    """

    def __init__(self) -> None:
        self._written: Future[None] | None = None

    def save(self, path: Path, content: dict[str, Any], then: Callable[[], None]) -> None:
        """Write a copy of `content`, then call `then`; waits for the previous write."""
        self.wait()
        copy = _copied(content)

        def write() -> None:
            save_checkpoint(path, copy)
            then()

        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._written = pool.submit(write)
        pool.shutdown(wait=False)  # the thread ends with its task: loader workers may be forked

    def wait(self) -> None:
        """Wait until everything is written; UserError if that failed."""
        if self._written is not None:
            error = self._written.exception()  # a signal handler may raise here: wait again then
            self._written = None
            if error is not None:
                raise error


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint that was found in an output folder."""

    path: Path
    content: dict[str, Any]


def refuse_foreign(path: Path) -> None:
    """UserError if the file is a checkpoint of another toolkit, which has the same file names."""
    try:
        content = replace_stubs(read_torch_file(path, STUBS))
    except (UserError, RecursionError):  # damaged
        return
    toolkits = {"NVIDIA's recipe": nvidia.is_nvidia, "fairseq": fairseq.is_fairseq}
    for name, written_by in toolkits.items():
        if written_by(content):
            raise UserError(
                f"{path}: a checkpoint of {name}, which no run here can resume; choose another "
                f"OUTPUT_DIR and start from its weights: INIT_FROM={path} to pre-train, "
                f"PRETRAINED_MODEL={path} to fine-tune"
            )


_ENTRIES: dict[str, type] = {
    **dict.fromkeys(("recipe", "model", "optimizer", "circumstances", "architecture"), dict),
    "update": int,
}
"""Types of the entries that a resume takes."""


def check_types(content: dict[str, Any], path: Path) -> None:
    """UserError if an entry of a run's checkpoint is of another type than a run writes."""
    for name, kind in _ENTRIES.items():
        if name in content and not isinstance(content[name], kind):
            raise UserError(
                f"{path}: damaged, its {name} is {type(content[name]).__name__!r}; use another copy"
            )
    if not all(isinstance(t, torch.Tensor) for t in content.get("model", {}).values()):
        raise UserError(f"{path}: damaged, its model holds no tensors; use another copy")


class CheckpointFolder:
    """The checkpoints of a run: `<prefix>_update<N>.pt`, and `<prefix>_best.pt`."""

    def __init__(self, path: str | Path, prefix: str):
        self.path, self.prefix = Path(path), prefix

    def update_file(self, update: int) -> Path:
        """The path of the checkpoint of update `update`."""
        return self.path / f"{self.prefix}_update{update}.pt"

    @property
    def best_file(self) -> Path:
        """The path of the checkpoint with the best validation result."""
        return self.path / f"{self.prefix}_best.pt"

    def updates(self) -> list[int]:
        """Updates with a checkpoint, ascending."""
        names = (path.name for path in self.path.glob(f"{self.prefix}_update*.pt"))
        found = (re.fullmatch(rf"{re.escape(self.prefix)}_update(\d+)\.pt", n) for n in names)
        return sorted(int(match[1]) for match in found if match)

    def newest(self) -> ResumePoint | None:
        """The newest update checkpoint that can be read, None if there is no update checkpoint.

        Prints which are skipped.  UserError if there are some and none can be read, or if they are
        another toolkit's: a new run would overwrite them.
        """
        updates = self.updates()
        for update in reversed(updates):
            path = self.update_file(update)
            try:
                content = load_checkpoint(path)
                check_types(content, path)
                return ResumePoint(path, content)
            except UserError as error:
                refuse_foreign(path)
                notice(f"warning: {error}; trying the one before")
        if not updates and self.best_file.is_file():
            refuse_foreign(self.best_file)
        if updates:
            raise UserError(
                f"{self.path}: none of its {len(updates)} checkpoints {self.prefix}_update*.pt can "
                "be read; repair them, or choose another OUTPUT_DIR"
            )
        return None

    def prune(self, keep: int, milestones: Sequence[int] = ()) -> None:
        """Remove all update checkpoints except the newest `keep` and those nearest to each
        milestone, and the temporary files of writers that were killed."""
        updates = self.updates()
        kept = {*updates[-keep:]}
        if updates:
            kept |= {min(updates, key=lambda u: abs(u - milestone)) for milestone in milestones}
        for update in updates:
            if update not in kept:
                self.update_file(update).unlink(missing_ok=True)
        for path in self.path.glob(f".{self.prefix}_*.tmp"):
            if not path.name.endswith(f".{os.getpid()}.tmp"):
                path.unlink(missing_ok=True)
