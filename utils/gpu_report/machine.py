"""What a GPU report needs to know of the machine, as JSON: `python -m utils.gpu_report.machine`.

In a process of its own: torch takes memory on a GPU as soon as it is asked for its state.
"""

import json
import subprocess
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import torch

from common.runtime import environment
from wav2vec2.cli.errors import run_command
from wav2vec2.cli.requirements import REQUIRED

OPTIONAL = ("transformers", "apex", "pytest")
"""Packages that some steps need, besides the required ones."""


def driver() -> str:
    """Version of NVIDIA's driver; `unknown` without nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError, IndexError):
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return found.stdout.split()[0]
    return "unknown"


def describe_machine() -> dict[str, Any]:
    """Hardware, versions, commit, number of GPUs, their memory in MiB, and missing packages."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device("cuda", 0) if gpus else torch.device("cpu")
    found = environment.describe(device, 1)
    free, total = torch.cuda.mem_get_info(device) if gpus else (0, 0)
    names = ("python", "torch", "cuda")
    return {
        "hardware": found["hardware"],
        "gpus": gpus,
        "memory": total / 2**20,
        "free": free / 2**20,
        "bf16": bool(gpus) and torch.cuda.is_bf16_supported(including_emulation=False),
        "versions": {name: found[name] for name in names if name in found}
        | ({"driver": driver()} if gpus else {}),
        "commit": found.get("commit", "unknown"),
        "missing": [name for name in (*sorted(REQUIRED), *OPTIONAL) if find_spec(name) is None],
    }


def main() -> None:
    print(json.dumps(describe_machine()))


if __name__ == "__main__":
    run_command(main)
