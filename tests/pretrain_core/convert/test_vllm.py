"""vLLM itself reads both exports and agrees on every log-probability."""

import json
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from pretrain_core.convert import export_internlm2, export_llama
from pretrain_core.model import Transformer, preset, shifted
from tests.support import ENGINE_ENVIRONMENT, randomise, run_python

# One process for both folders: importing vLLM takes longer than either engine.
CHILD = """
import json, sys
from vllm import LLM, SamplingParams
batch = json.loads(sys.argv[1])
answer = {}
for folder in sys.argv[2:]:
    engine = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=64, max_num_seqs=4,
                 kv_cache_memory_bytes=2**26, seed=0, disable_log_stats=True)
    sampling = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=1)
    prompts = [{"prompt_token_ids": tokens} for tokens in batch]
    outputs = engine.generate(prompts, sampling, use_tqdm=False)
    answer[folder] = {
        "architecture": engine.llm_engine.model_config.architectures[0],
        "logprobs": [
            [rows[token].logprob for token, rows in zip(tokens[1:], output.prompt_logprobs[1:])]
            for tokens, output in zip(batch, outputs)
        ],
        "next": [output.outputs[0].token_ids[0] for output in outputs],
    }
    del engine
print("ANSWER" + json.dumps(answer))
"""


def test_vllm_agrees_with_us_on_every_export(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    batch = torch.randint(512, (3, 24), generator=torch.Generator().manual_seed(5))
    tokens, bounds = batch.flatten(), torch.arange(0, 73, 24)
    expected: dict[str, torch.Tensor] = {}
    for tied in (False, True):
        model = Transformer(preset("nano").model_copy(update={"tied": tied, "rope_base": 5e4}))
        randomise(model)
        with torch.no_grad():
            logits = model(tokens, bounds)
        for export in (export_llama, export_internlm2):
            folder = export(model, tokenizer, tmp_path / f"{export.__name__}-{tied}")
            expected[str(folder)] = logits

    outcome = run_python(
        CHILD,
        json.dumps(batch.tolist()),
        *expected,
        env={**ENGINE_ENVIRONMENT, "OMP_NUM_THREADS": "1"},
    )
    line = next((line for line in outcome.stdout.splitlines() if line.startswith("ANSWER")), None)
    assert line is not None, outcome.stderr[-3000:]
    for folder, read in json.loads(line.removeprefix("ANSWER")).items():
        family = "LlamaForCausalLM" if "llama" in folder else "InternLM2ForCausalLM"
        assert read["architecture"] == family
        logits = expected[folder]
        ours = shifted(logits, tokens, bounds).view_as(batch)[:, 1:]
        torch.testing.assert_close(ours, torch.tensor(read["logprobs"]), atol=1e-4, rtol=0)
        assert read["next"] == logits.view(3, 24, -1)[:, -1].argmax(-1).tolist()
