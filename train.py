# PYTHON_ARGCOMPLETE_OK
"""Train wav2vec 2.0: `train.py pretrain` from audio alone, `train.py finetune` on transcripts.

The recipes under scripts/ call this under torchrun; one process also runs without it.
Every flag's default is the Base recipe.
"""

import json
from contextlib import closing
from pathlib import Path

from common.runtime import distributed
from common.runtime.folder_lock import FolderLock
from common.runtime.randomness import use_deterministic_operators
from common.training.precision import set_matmul_precision
from common.training.trainer import Trainer
from tasks.recipes import configuration_of, parse_recipe, prepare_trainer
from wav2vec2.cli.errors import (
    EXIT_FILE,
    REASONS,
    PeerLost,
    out_of_memory_as_user_error,
    record_exit,
    run_command,
)
from wav2vec2.cli.requirements import require_packages
from wav2vec2.files.output import removed_after_failure
from wav2vec2.inference.device import check_supported, pick_device


def main() -> None:
    require_packages()
    recipe = parse_recipe()
    run = recipe.run
    if run.dry_run:
        if distributed.is_main():
            print(json.dumps(configuration_of(recipe), indent=2))
        return
    if run.deterministic:
        use_deterministic_operators()
    device = pick_device(run.cpu)
    check_supported(recipe.precision.precision, device)
    set_matmul_precision(recipe.precision.tf32)
    lock = FolderLock(run.output_dir)

    def record(error: Exception) -> None:
        # The lost process may be the main one.
        if (distributed.is_main() and not lock.refused) or isinstance(error, PeerLost):
            record_exit(Path(run.output_dir) / EXIT_FILE, error)

    def take_folder() -> None:
        if distributed.is_main():
            lock.acquire(force=run.force)

    with distributed.process_group(device, run.peer_timeout_minutes, record), closing(lock):
        trainer: Trainer | None = None

        def has_begun() -> bool:
            """Whether an update was taken, or another process is responsible for the folder."""
            if lock.refused or not distributed.is_main():
                return True
            return trainer is not None and trainer.state.position > 0

        with removed_after_failure(run.output_dir, unless=has_begun):
            try:
                with out_of_memory_as_user_error():
                    distributed.run_on_all_ranks(take_folder)
                    trainer = prepare_trainer(recipe, device)
                    trainer.train()
            except REASONS as error:
                record(error)
                raise


if __name__ == "__main__":
    run_command(main)
