"""The log-prob probe: does the engine really compute with the trainer's weights?

A checksum proves that the bytes arrived. It says nothing about copies made from them afterwards: a
head that was packed before the push gives old logits under new weights. So after each push both
sides compute log-probs of the same tokens, which no cache has seen. The engine samples them from
the new weights: at tokens that no model expects, bf16 alone makes gaps as large as a real fault's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.batch import Sequences
from actors.rollout.requests import Finished, Request, SamplingSettings
from actors.rollout.weights.wire import WeightPushError
from pretrain_core.draws import torch_generator


@dataclass(frozen=True)
class Tolerance:
    """Largest gap at one token, as `absolute + relative · |log-prob|`, and of the mean gap."""

    absolute: float
    relative: float
    mean: float


PROBES, OPENING = 4, 2
PROBE_SAMPLING = SamplingSettings(temperature=1.0, top_p=1.0, max_new_tokens=16, min_new_tokens=16)

# Seen between vLLM and transformers on text: fp32 at most 4e-5; bf16 at most 0.24, mean 0.05.
TOLERANCES = {
    "float32": Tolerance(absolute=1e-3, relative=1e-4, mean=2e-4),
    "bfloat16": Tolerance(absolute=0.4, relative=0.05, mean=0.15),
}


@dataclass(frozen=True)
class ProbeReport:
    """Gaps between engine and trainer over the probed tokens."""

    max_gap: float
    mean_gap: float
    tokens: int


def probe_requests(vocab_size: int, version: int) -> list[Request]:
    """What the engine continues after the push of `version`: fixed for it, new to every cache."""
    generator = torch_generator(0, "weight push probe", version)
    openings = torch.randint(vocab_size, (PROBES, OPENING), generator=generator).tolist()
    return [Request(str(index), opening, version) for index, opening in enumerate(openings)]


def probe_batch(requests: Sequence[Request], replies: Sequence[Finished]) -> Sequences:
    """The sequences to compare, in the order of the requests; the sampled tokens are probed."""
    sampled = {reply.id: reply.tokens for reply in replies}
    return Sequences.pack(
        (
            [*request.tokens, *sampled[request.id]],
            [False] * len(request.tokens) + [True] * len(sampled[request.id]),
        )
        for request in requests
    )


def check_probe(
    batch: Sequences, engine: Tensor, trainer: Tensor, dtype: str, replica: int = 0
) -> ProbeReport:
    """Compare log-probs `[tokens]`; `dtype` is the coarser one of both sides.

    Raises `WeightPushError` naming the worst token and its gap.
    """
    at = batch.is_action
    gap = (engine.float() - trainer.float()).abs()[at]
    allowed = TOLERANCES[dtype]
    excess = gap - allowed.absolute - allowed.relative * trainer.float().abs()[at]
    worst = int(torch.where(excess.isnan(), torch.inf, excess).argmax())
    report = ProbeReport(float(gap.max()), float(gap.mean()), len(gap))
    if not (excess.max() <= 0 and gap.mean() <= allowed.mean):
        position = int(at.nonzero()[worst])
        raise WeightPushError(
            f"rollout engine {replica} does not compute with the pushed weights: token "
            f"{int(batch.tokens[position])} at position {position} of the probe has log-prob "
            f"{float(engine[position]):.5f} there and {float(trainer[position]):.5f} in the "
            f"trainer (gap {float(gap[worst]):.5f}, mean gap {report.mean_gap:.5f}, "
            f"allowed for {dtype}: {allowed.absolute} + {allowed.relative}·|log-prob|, "
            f"mean {allowed.mean})"
        )
    return report
