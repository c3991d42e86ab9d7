"""Stage `evaluate`: the round's policy on held-out prompts: gold score, KL, alignment tax."""

import torch

from actors.batch import Sequences
from cool_rlhf.online.context import Context
from cool_rlhf.online.sampling import answer
from pretrain_core.data import TokenStore
from pretrain_core.evaluate import evaluate_loss
from pretrain_core.runs import StopSignal, write_json


def evaluate_round(context: Context, number: int, stop: StopSignal) -> None:
    """Answer every held-out prompt once and measure; writes `rounds/<k>/evaluation.json`.

    KL is Σ over a reply of log π − log π_ref in nats, from the engine's and the reference's
    log-probs. The gold score is that of the annotator of the *prompt's own* condition.
    """
    prompts = list(context.held_out_prompts)
    policy = context.policy(number)
    finished = answer(context, policy, prompts, "evaluate")
    texts = [context.chat.reply(f.tokens) for f in finished]
    context.crew.reference.load(context.settings.sft)
    sequences = Sequences.pack(
        [
            ([*p.tokens, *f.tokens], [False] * len(p.tokens) + [True] * len(f.tokens))
            for p, f in zip(prompts, finished, strict=True)
        ]
    )
    reference = context.crew.reference.logprobs(sequences).result().logprobs
    ends = sequences.cu_seqlens.tolist()
    samples = []
    for row, (prompt, reply, text) in enumerate(zip(prompts, finished, texts, strict=True)):
        sample: dict[str, object] = {
            "id": prompt.id,
            "prompt": prompt.messages[-1].content,
            "condition": prompt.condition,
            "reply": text,
            "tokens": len(reply.tokens),
            "stopped": reply.finish_reason == "stop",
        }
        if reply.raw_logprobs is not None:
            start = ends[row] + len(prompt.tokens)
            gap = torch.tensor(reply.raw_logprobs) - reference[start : ends[row + 1]]
            sample["kl"] = float(gap.sum())
        if prompt.condition in context.annotators:
            sample["gold"] = context.annotators[prompt.condition].score(text)
        samples.append(sample)
    report: dict[str, object] = {"policy": str(policy), "samples": samples}
    text_store = context.settings.evaluation.text
    if text_store is not None:
        loss = evaluate_loss(
            policy, TokenStore.open(text_store), context.settings.evaluation.text_tokens
        )
        report["text_loss"] = loss.loss
    path = context.folder(number) / "evaluation.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, report)
