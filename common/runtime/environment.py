"""What a run runs on, for its log: hardware, versions and the commit of this repository."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wav2vec2.files.text import split_lines

ROOT = Path(__file__).resolve().parents[2]


def describe(device: torch.device, processes: int) -> dict[str, Any]:
    """Hardware, cores, versions and commit, as plain types without host names or paths; what is
    unknown has no entry."""
    found: dict[str, Any] = {
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "cores": cores(),
        "processes": processes,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "numpy": np.__version__,
        "commit": commit(),
    }
    return {name: value for name, value in found.items() if value is not None}


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor(information: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU model that Linux names, else the architecture."""
    try:
        for line in split_lines(information.read_text(encoding="utf-8", errors="replace")):
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit(root: Path = ROOT) -> str | None:
    """The commit that is checked out, with `-dirty` where files differ from it; outside git the one
    that the image was built from (SOURCE_REVISION); else None."""
    if not (root / ".git").exists():  # an installed copy inside somebody else's repository
        built = os.environ.get("SOURCE_REVISION", "unknown")
        return None if built == "unknown" else built
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        result = subprocess.run(
            [*command, "--exclude", "*"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None
