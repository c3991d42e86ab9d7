"""One job: a policy answers held-out prompts; scores, gold, KL to the reference, text loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from actors.rollout import Request, RolloutSettings, SamplingSettings
from actors.rollout.engines.hf_engine import HFEngine
from actors.rollout.engines.protocol import Reply
from actors.rollout.worker import build_engine
from cool_rlhf.hacks.judges import Judge, UnreadableSample, gold_judge, reward_judge
from cool_rlhf.hacks.samples import Sample
from cool_rlhf.ppo.evaluation.settings import EvaluationSettings
from cool_rlhf.ppo.sampling.prompts import Prompt
from pretrain_core.chat import PolicyChat
from pretrain_core.data import TokenStore
from pretrain_core.draws import seed_of
from pretrain_core.evaluate import evaluate_loss


@dataclass(frozen=True)
class Examination:
    """All that the jobs of a run have in common."""

    settings: EvaluationSettings
    prompts: tuple[Prompt, ...]
    reference: Path
    reward_model: str
    sampling: SamplingSettings
    rollout: RolloutSettings
    seed: int


def evaluate_policy(asked: Examination, policy: Path) -> dict[str, Any]:
    """One reply to each prompt, the same draws for every policy.

    `samples`: per prompt the reply, its `tokens`, whether it `stopped`, `kl` (Σ log π − log π_ref
    of its tokens, nats), `score` and `gold`, None where nobody could judge; `text_loss` in nats.
    Raises EngineStartError, and what the judges raise.
    """
    torch.set_num_threads(asked.settings.threads)
    chat = PolicyChat(AutoTokenizer.from_pretrained(policy))
    replies = _replies(asked, policy, chat)
    said = [chat.reply(reply.tokens) for reply in replies]
    samples = [
        Sample(p.id, p.messages, text, p.condition, p.reference)
        for p, text in zip(asked.prompts, said, strict=True)
    ]
    own, reference = (_logprobs(asked, folder, replies) for folder in (policy, asked.reference))
    with reward_judge(asked.reward_model) as judge:
        scores = _judged(judge, samples)
    gold: list[float | None] = [None] * len(samples)
    if asked.settings.gold is not None:
        with gold_judge(asked.settings.gold) as judge:
            gold = _judged(judge, samples)
    found: dict[str, Any] = {
        "policy": str(policy),
        "samples": [
            {
                "id": sample.id,
                "condition": sample.condition,
                "prompt": sample.asked,
                "reply": sample.reply,
                "tokens": len(reply.tokens),
                "stopped": reply.finish_reason == "stop",
                "kl": own[row] - reference[row],
                "score": scores[row],
                "gold": gold[row],
            }
            for row, (sample, reply) in enumerate(zip(samples, replies, strict=True))
        ],
    }
    if asked.settings.text is not None:
        store = TokenStore.open(asked.settings.text)
        found["text_loss"] = evaluate_loss(policy, store, asked.settings.text_tokens).loss
    return found


def _replies(asked: Examination, policy: Path, chat: PolicyChat) -> list[Reply]:
    engine = build_engine(asked.settings.engine, policy, asked.rollout)
    requests = [
        Request(p.id, list(p.tokens), seed_of(asked.seed, "evaluation", 0, p.id))
        for p in asked.prompts
    ]
    batches = engine.generate(requests, asked.sampling, chat.stop_token_ids)
    found = {reply.id: reply for batch in batches for reply in batch}
    return [found[prompt.id] for prompt in asked.prompts]


def _logprobs(asked: Examination, folder: Path, replies: Sequence[Reply]) -> list[float]:
    """Of each reply under the model of a folder, nats; by the same code for every model."""
    engine = HFEngine(folder, "float32", asked.rollout.max_model_len, 1)
    pairs = list(zip(asked.prompts, replies, strict=True))
    rows = engine.logprobs([[*prompt.tokens, *reply.tokens] for prompt, reply in pairs])
    return [sum(row[len(prompt.tokens) :]) for row, (prompt, _) in zip(rows, pairs, strict=True)]


def _judged(judge: Judge, samples: Sequence[Sample]) -> list[float | None]:
    """Scores; None for what cannot be read or judged, which leaves the others theirs."""
    try:
        scores = judge(samples)
    except UnreadableSample:
        scores = np.array([_alone(judge, sample) for sample in samples])
    return [float(score) if np.isfinite(score) else None for score in scores]


def _alone(judge: Judge, sample: Sample) -> float:
    try:
        return float(judge([sample])[0])
    except UnreadableSample:
        return float("nan")
