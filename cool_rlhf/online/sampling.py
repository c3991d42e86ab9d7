"""Stage `sample`: replies of SFT, early and late policy to the same prompts, made into pairs."""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from actors.rollout import Finished, Request
from cool_rlhf.online.context import Context
from cool_rlhf.ppo.sampling.prompts import Prompt
from pretrain_core.draws import rng, seed_of
from pretrain_core.runs import StopSignal


def pairs_file(context: Context, number: int) -> Path:
    """Where a round's unlabelled pairs are."""
    return context.folder(number) / "pairs" / "pairs.jsonl"


def answer(context: Context, policy: Path, prompts: Sequence[Prompt], stage: str) -> list[Finished]:
    """One reply per prompt from the model folder `policy`; seeds come from `stage` and prompt."""
    rollout, seed = context.crew.rollout, context.settings.run.seed
    rollout.load(policy, version=0)
    context.run.record(engine=rollout.engine)
    requests = [
        Request(id=p.id, tokens=list(p.tokens), seed=seed_of(seed, stage, 0, p.id)) for p in prompts
    ]
    sampling = context.settings.ppo.sampling
    finished = {f.id: f for f in rollout.generate(requests, sampling, context.chat.stop_token_ids)}
    return [finished[p.id] for p in prompts]


def sample_pairs(context: Context, number: int, stop: StopSignal) -> None:
    """Write pairs of replies; which two of the three policies meet is drawn per prompt."""
    seed, chat = context.settings.run.seed, context.chat
    count = min(context.settings.sample.prompts, len(context.prompts))
    prompts = context.prompts.draw(seed_of(seed, "sample", number), 0, count)
    policies = {
        "sft": context.settings.sft,
        "early": context.policy(number, "early"),
        "late": context.policy(number, "late"),
    }
    replies = {
        name: [chat.reply(f.tokens) for f in answer(context, folder, prompts, f"{number}/{name}")]
        for name, folder in policies.items()
    }
    meetings = list(combinations(policies, 2))
    records = []
    for position, prompt in enumerate(prompts):
        draw = rng(seed, "pair", number, prompt.id)
        first, second = draw.permutation(meetings[int(draw.integers(len(meetings)))])
        texts = replies[first][position], replies[second][position]
        if not can_be_judged(texts):
            continue
        records.append(
            pair_of(f"{number}/{prompt.id}", prompt, texts)
            | {
                "policies": [str(first), str(second)],
            }
        )
    write_pairs(context, number, records)


def sample_first_pairs(context: Context, number: int, stop: StopSignal) -> None:
    """Write pairs of the SFT model's own replies, two to each prompt."""
    settings, seed = context.settings, context.settings.run.seed
    assert settings.first_reward is not None
    count = min(settings.first_reward.prompts, len(context.prompts))
    prompts = context.prompts.draw(seed_of(seed, "sample", number), 0, count)
    sides = [
        [
            context.chat.reply(reply.tokens)
            for reply in answer(context, settings.sft, prompts, f"{number}/{side}")
        ]
        for side in ("first", "second")
    ]
    records = [
        pair_of(f"{number}/{prompt.id}", prompt, texts)
        for prompt, *texts in zip(prompts, *sides, strict=True)
        if can_be_judged(texts)
    ]
    write_pairs(context, number, records)


def can_be_judged(replies: Sequence[str]) -> bool:
    """Not so identical and empty ones: nobody could prefer one."""
    return all(reply.strip() for reply in replies) and replies[0] != replies[1]


def pair_of(name: str, prompt: Prompt, replies: Sequence[str]) -> dict[str, Any]:
    """A pair for people or annotators to judge."""
    return {
        "id": name,
        "prompt": [m.model_dump(exclude_none=True) for m in prompt.messages],
        "condition": prompt.condition,
        "replies": list(replies),
    }


def write_pairs(context: Context, number: int, records: Sequence[Mapping[str, Any]]) -> None:
    """Write a round's unlabelled pairs."""
    path = pairs_file(context, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8"
    )
