"""Pack filelists' audio into a few large files that training reads without decoding.

    python -m utils.data.pack_dataset --dataset_dir datasets/mini --subsets train-mini dev-mini \\
        --output_dir datasets/packed

Every command accepts `--output_dir` in place of `--dataset_dir`.  Run again after an interruption,
the command resumes after the last finished shard.  `common/data/packed.py` does the work.
"""

from common.data.packed import PackOptions, pack_filelists, verify_shards
from utils.data.next_step import print_training_step
from wav2vec2.cli.errors import ExitCode, run_command
from wav2vec2.cli.flags import parse_options


def main() -> ExitCode | None:
    options = parse_options(PackOptions, "utils.data.pack_dataset", __doc__)
    if options.verify:
        return verify_shards(options)
    code = pack_filelists(options)
    print_training_step(options.output_dir, options.subsets)
    return code


if __name__ == "__main__":
    run_command(main)
