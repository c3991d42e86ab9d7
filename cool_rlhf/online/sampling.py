"""Stage `sample`: replies of SFT, early and late policy to the same prompts, made into pairs."""

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

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
    """Write pairs of replies; which two of the three policies meet is drawn per prompt.

    Identical and empty replies make no pair: nobody could prefer one.
    """
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
        if not all(text.strip() for text in texts) or texts[0] == texts[1]:
            continue
        records.append(
            {
                "id": f"{number}/{prompt.id}",
                "prompt": [m.model_dump(exclude_none=True) for m in prompt.messages],
                "condition": prompt.condition,
                "replies": list(texts),
                "policies": [str(first), str(second)],
            }
        )
    path = pairs_file(context, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8"
    )
