"""The first preference pairs: the SFT model's own samples, judged under both conditions."""

from collections.abc import Mapping, Sequence
from typing import Any

from actors.rollout import Request, SamplingSettings
from cool_rlhf.annotation.programmatic import Annotator
from cool_rlhf.demo.settings import PairSettings
from cool_rlhf.online.context import Context
from cool_rlhf.online.labels import judge
from cool_rlhf.online.sampling import can_be_judged, pair_of
from cool_rlhf.ppo.sampling.prompts import Prompt
from pretrain_core.draws import rng, seed_of
from reward.data import Preference


def sample_reply_pairs(
    context: Context, prompts: Sequence[Prompt], count: int, settings: PairSettings, stage: str
) -> list[dict[str, Any]]:
    """`count` pairs of different, non-empty replies; a share of the second ones sampled hot."""
    chat, rollout = context.chat, context.crew.rollout
    seed, sampling = context.settings.run.seed, context.settings.ppo.sampling
    rollout.load(context.settings.sft, version=0)
    chosen = [prompts[index % len(prompts)] for index in range(count)]
    hot = SamplingSettings(
        **sampling.model_dump() | {"temperature": settings.wild_temperature, "top_p": 1.0}
    )

    def ask(side: str, rows: Sequence[int], how: SamplingSettings) -> dict[int, str]:
        requests = [
            Request(
                id=str(row),
                tokens=list(chosen[row].tokens),
                seed=seed_of(seed, f"{stage}/{side}", row, chosen[row].id),
            )
            for row in rows
        ]
        finished = rollout.generate(requests, how, chat.stop_token_ids)
        return {int(f.id): chat.reply(f.tokens) for f in finished}

    wild = [r for r in range(count) if rng(seed, stage, r).random() < settings.wild_share]
    tame = sorted(set(range(count)) - set(wild))
    first = ask("first", range(count), sampling)
    second = ask("second", tame, sampling) | ask("second", wild, hot)
    records = []
    for row, prompt in enumerate(chosen):
        replies = [first[row], second[row]]
        if can_be_judged(replies):
            records.append(pair_of(f"{stage}/{row}/{prompt.id}", prompt, replies))
    return records


def label_pairs(
    records: Sequence[Mapping[str, Any]], annotators: Mapping[str, Annotator]
) -> list[Preference]:
    """Every pair under every annotator's condition: on length they contradict each other."""
    return [
        preference for record in records for preference in judge(record, annotators, 0, every=True)
    ]
