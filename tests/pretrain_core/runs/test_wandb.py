"""wandb without a key and without a network."""

import os
import subprocess
import sys
from pathlib import Path

CODE = """
from pathlib import Path
from pretrain_core.runs import Run, RunSettings

with Run.create(RunSettings(root=Path("runs"), name="a", wandb="auto"), None, kind="ppo") as run:
    for step in (0, 1, 1):
        run.log(step, {"objective/kl": 0.25})
"""


def test_wandb_writes_offline_when_there_is_no_key_and_keeps_no_secret(tmp_path: Path) -> None:
    environment = {key: text for key, text in os.environ.items() if key != "WANDB_API_KEY"}
    script = tmp_path / "train.py"
    script.write_text(CODE)
    # A process of its own: wandb's metadata would copy this command line.
    command = [sys.executable, str(script), "--api-key", "hush-hush"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120)
    written = [file for file in (tmp_path / "runs" / "a").rglob("*") if file.is_file()]
    assert any(file.match("offline-run-*/run-*.wandb") for file in written)
    assert not [file for file in written if b"hush-hush" in file.read_bytes()]
