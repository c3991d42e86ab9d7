"""Scores of a reward-model folder by vLLM's pooling runner, in a process of its own.

`python -m reward.vllm_scoring FOLDER MAX_LENGTH` reads inputs (lists of token ids, JSON) from its
standard input and writes scores.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pretrain_core.errors import RunFailed

MARK = "SCORES "
# What vLLM needs on a machine without a GPU, where it would start processes and compile.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "OMP_NUM_THREADS": "1",
}
CACHE_BYTES = 2**28


def scores_in_child(
    folder: Path, inputs: Sequence[Sequence[int]], max_length: int, timeout: float = 600
) -> list[float]:
    """Raw scores [n] in the order of the inputs; RunFailed with vLLM's last words if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "reward.vllm_scoring", str(folder), str(max_length)],
        input=json.dumps([list(tokens) for tokens in inputs]),
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**ENVIRONMENT, **os.environ},
        check=False,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if done.returncode != 0 or line is None:
        raise RunFailed(f"vLLM could not score {folder}:\n{done.stderr[-2000:]}")
    return [float(score) for score in json.loads(line.removeprefix(MARK))]


def scores_by_vllm(folder: Path, inputs: Sequence[Sequence[int]], max_length: int) -> list[float]:
    """Raw scores [n] in this process, which loads vLLM."""
    from vllm import LLM, PoolingParams

    engine = LLM(
        str(folder),
        runner="pooling",
        dtype="float32",
        enforce_eager=True,
        max_model_len=max_length,
        max_num_seqs=16,
        kv_cache_memory_bytes=CACHE_BYTES,
        seed=0,
        disable_log_stats=True,
    )
    # Its default puts the score through a sigmoid.
    raw = PoolingParams(use_activation=False)
    prompts = [{"prompt_token_ids": list(tokens)} for tokens in inputs]
    outputs = engine.classify(prompts, pooling_params=raw, use_tqdm=False)
    return [float(output.outputs.probs[0]) for output in outputs]


def main() -> None:
    """Entry point of the child process."""
    scores = scores_by_vllm(Path(sys.argv[1]), json.load(sys.stdin), int(sys.argv[2]))
    sys.stdout.write(MARK + json.dumps(scores) + "\n")


if __name__ == "__main__":
    main()
