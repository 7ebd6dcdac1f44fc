"""Any checkpoint, ours or somebody else's -> a native checkpoint content.

Which it is shows in its content, never in its name.
"""

from pathlib import Path
from typing import Any

from wav2vec2.cli.errors import UserError
from wav2vec2.files.torch_file import check_format, is_checkpoint, read_torch_file
from wav2vec2.interop import archive, fairseq, huggingface, nvidia, release
from wav2vec2.interop.onnx import is_onnx
from wav2vec2.interop.stand_ins import STAND_INS, plain


def read_checkpoint(path: str | Path, dictionary: str | Path | None = None) -> dict[str, Any]:
    """The checkpoint `path`: a file of this repository, of NVIDIA's recipe or of fairseq, a .pt2
    archive that was written here, or the folder of a released or a Hugging Face model.

    `dictionary`: that of a fine-tuned model whose file has none.  UserError if it is none of these,
    or not all of it is understood.
    """
    path = Path(path)
    if release.is_release(path):
        return release.read_release(path)
    if huggingface.is_huggingface(path):
        return huggingface.read_huggingface(path)
    if path.is_dir():
        raise UserError(
            f"{path}: a folder without config.json; name a checkpoint file, or the folder of a "
            "released or a Hugging Face model"
        )
    if is_onnx(path):
        raise UserError(
            f"{path}: an ONNX file, which is run, not loaded; name the checkpoint it was made from"
        )
    if archive.is_archive(path):
        return archive.read_archive(path)
    content = read_torch_file(path, STAND_INS)
    if is_checkpoint(content):
        check_format(content, path)
        return content
    try:
        content = plain(content)
    except RecursionError:  # no configuration holds itself
        raise UserError(f"{path}: damaged, or not a checkpoint; use another copy") from None
    given = None if dictionary is None else Path(dictionary)
    if nvidia.is_nvidia(content):
        return nvidia.read_nvidia(content, path, given)
    if fairseq.is_fairseq(content):
        return fairseq.read_fairseq(content, path, given)
    raise UserError(
        f"{path}: not a checkpoint of this repository, of fairseq or of NVIDIA's recipe (a Hugging "
        "Face model is named by its folder)"
    )
