"""Real jobs on nano models: what they measure, and what becomes of one that fails."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from actors.placement import PlacementError, RaySession
from actors.rollout import Request, RolloutSettings, SamplingSettings
from actors.rollout.worker import build_engine
from cool_rlhf.ppo.evaluation.frontier import REFERENCE
from cool_rlhf.ppo.evaluation.job import Examination, evaluate_policy
from cool_rlhf.ppo.evaluation.jobs import Evaluations
from cool_rlhf.ppo.evaluation.settings import EvaluationSettings
from cool_rlhf.ppo.sampling.prompts import PromptSettings, read_prompts
from cool_rlhf.report.evaluations import evaluations as part_of_the_report
from pretrain_core.chat import PolicyChat
from pretrain_core.draws import seed_of
from pretrain_core.runs import read_json
from reward.card import read_conditions
from tests.cool_rlhf.conftest import Artefacts
from tests.support import randomise

GOLD = "verifiers: {short: {kind: length, most: 1, unit: words, fall: 40}}"


@pytest.fixture
def examination(artefacts: Artefacts, tmp_path: Path) -> Examination:
    gold = tmp_path / "gold.yaml"
    gold.write_text(GOLD)
    held_out = artefacts.demo / "held_out_prompts.jsonl"
    chat = PolicyChat(AutoTokenizer.from_pretrained(artefacts.demo / "sft"))
    prompts = read_prompts(
        PromptSettings(path=held_out), chat, read_conditions(artefacts.demo / "reward")
    )
    return Examination(
        settings=EvaluationSettings(
            prompts=held_out,
            gold=str(gold),
            text=artefacts.demo / "held_out_text",
            text_tokens=1000,
        ),
        prompts=tuple(prompts),
        reference=artefacts.demo / "sft",
        reward_model=str(artefacts.demo / "reward"),
        sampling=SamplingSettings(max_new_tokens=12),
        rollout=RolloutSettings(max_model_len=128),
        seed=3,
    )


@pytest.fixture(scope="module")
def moved(
    model_folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("moved")
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    randomise(model, seed=9)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_job_measures_replies_kl_and_text(
    examination: Examination, artefacts: Artefacts, moved: Path
) -> None:
    own = evaluate_policy(examination, artefacts.demo / "sft")
    assert [row["kl"] for row in own["samples"]] == [0.0] * len(examination.prompts)
    assert all(0 <= row["gold"] <= 1 and math.isfinite(row["score"]) for row in own["samples"])
    assert len({row["reply"] for row in own["samples"]}) > 1
    other = evaluate_policy(examination, moved)
    assert evaluate_policy(examination, moved) == other
    assert other["text_loss"] != own["text_loss"]
    # The same draws again, and KL by the plainest computation.
    engine = build_engine("hf", moved, examination.rollout)
    asked = [
        Request(p.id, list(p.tokens), seed_of(examination.seed, "evaluation", 0, p.id))
        for p in examination.prompts
    ]
    stop = PolicyChat(AutoTokenizer.from_pretrained(moved)).stop_token_ids
    batches = engine.generate(asked, examination.sampling, stop)
    replies = {reply.id: reply for batch in batches for reply in batch}
    for row, prompt in zip(other["samples"], examination.prompts, strict=True):
        said = replies[prompt.id].tokens
        assert row["tokens"] == len(said)
        kl = plain_logprob(moved, prompt.tokens, said) - plain_logprob(
            artefacts.demo / "sft", prompt.tokens, said
        )
        assert row["kl"] == pytest.approx(kl, abs=1e-3)


@torch.no_grad()
def plain_logprob(folder: Path, prompt: Sequence[int], reply: Sequence[int]) -> float:
    tokens = torch.tensor([[*prompt, *reply]])
    rows = AutoModelForCausalLM.from_pretrained(folder)(tokens).logits[0].log_softmax(-1)
    return sum(float(rows[len(prompt) + at - 1, token]) for at, token in enumerate(reply))


def test_a_job_that_fails_is_told_and_the_others_decide(
    examination: Examination,
    artefacts: Artefacts,
    moved: Path,
    tmp_path: Path,
    ray_session: RaySession,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # One at a time.
    one = examination.settings.model_copy(update={"cpus": 13})
    jobs = Evaluations(tmp_path, replace(examination, settings=one))
    jobs.begin(REFERENCE, artefacts.demo / "sft")
    jobs.begin("000004", moved)
    jobs.begin("000009", tmp_path / "nowhere")
    with caplog.at_level(logging.WARNING):
        kept = jobs.finish()
        # The trainer asks at every iteration; only a resumed run tries again.
        jobs.begin("000009", tmp_path / "nowhere")
        jobs.finish()
    assert caplog.text.count("evaluation of 000009 failed") == 1
    assert kept is not None
    assert kept.name == "000004"
    assert read_json(tmp_path / "evaluations/selected.json") == kept.as_dict()
    # What has its result is not asked for again.
    again = Evaluations(tmp_path, examination)
    again.begin("000004", tmp_path / "nowhere")
    assert again.finish() == kept
    page = part_of_the_report(tmp_path)
    assert "Kept: 000004" in page
    assert "alignment tax" in page
    greedy = examination.settings.model_copy(update={"cpus": 1000})
    with pytest.raises(PlacementError, match=r"needs .*1000.* beside the roles, free are"):
        Evaluations(tmp_path / "other", replace(examination, settings=greedy)).begin("a", moved)
