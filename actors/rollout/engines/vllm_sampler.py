"""vLLM's sampler, taught to report both log-probs of a token. Imported inside vLLM's process only.

vLLM returns either raw or processed log-probs (`logprobs_mode`). With one extra log-prob asked per
token it carries a second column to the request's output, which here holds the raw log-prob of the
sampled token instead of the likeliest one's.
"""

from typing import Any

import torch
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler
from vllm.v1.sample.sampler import Sampler

from actors.rollout.engines.sampling import outside_nucleus


class NucleusFirst(TopKTopPSampler):
    """Takes the nucleus without sorting the vocabulary, which vLLM does on CPU."""

    def forward_cpu(
        self, logits: torch.Tensor, generators: Any, k: torch.Tensor | None, p: torch.Tensor | None
    ) -> Any:
        """As vLLM's; top-k, which comes before top-p, is left to it."""
        if p is not None and k is None:
            outside = outside_nucleus(logits.log_softmax(-1, dtype=torch.float32), p)
            logits, p = logits.masked_fill_(outside, -torch.inf), None
        return super().forward_cpu(logits, generators, k, p)


class BothLogprobsSampler(Sampler):
    """Columns of the log-probs: [processed, raw] of the sampled token."""

    def __init__(self, logprobs_mode: Any, use_fp64_gumbel: bool) -> None:
        super().__init__(logprobs_mode=logprobs_mode, use_fp64_gumbel=use_fp64_gumbel)
        self.topk_topp_sampler = NucleusFirst(logprobs_mode, use_fp64_gumbel)

    def forward(
        self, logits: torch.Tensor, sampling_metadata: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Sample; raw log-probs are taken first, since the steps of sampling work in place."""
        wanted = sampling_metadata.max_num_logprobs is not None
        raw = self.compute_logprobs(logits) if wanted else None
        output = super().forward(logits, sampling_metadata, *args, **kwargs)
        found = output.logprobs_tensors
        if raw is not None and found is not None:
            sampled = found.logprob_token_ids[:, :1]
            processed = found.logprobs[:, :1]
            output.logprobs_tensors = found._replace(
                logprob_token_ids=sampled.repeat(1, 2),
                logprobs=torch.cat([processed, raw.gather(-1, sampled.long())], dim=-1),
            )
        return output


def install(worker: Any) -> bool:
    """Give a vLLM worker this sampler; False where its model runner has another kind."""
    runner = worker.model_runner
    if type(getattr(runner, "sampler", None)) is not Sampler:
        return False
    runner.sampler = BothLogprobsSampler(
        logprobs_mode=runner.sampler.logprobs_mode, use_fp64_gumbel=runner.sampler.use_fp64_gumbel
    )
    return True
