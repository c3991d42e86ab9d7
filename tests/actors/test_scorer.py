"""The scorer on Ray: the reward model's own scores, one version, no silent failure."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.scorer import Scorer, ScorerWorker
from actors.scoring import Judged, SamplesRefused, ScorerSettings
from actors.worker import Rank
from pretrain_core.chat import Message
from reward.conditions import Conditions
from reward.heads import add_heads
from reward.model import RewardModel, create_reward_model

QUESTIONS = ("How are you?", "Tell me a story about ships.", "What is the capital of France?")


def conversation(question: str, reply: str) -> tuple[Message, ...]:
    return (Message(role="user", content=question), Message(role="assistant", content=reply))


@pytest.fixture(scope="module")
def reward_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_reward_model(
        model_folder, tmp_path_factory.mktemp("rm") / "model", Conditions.load(), seed=1
    )


@pytest.fixture(scope="module")
def scorer(ray_session: object, reward_folder: Path) -> Iterator[Scorer]:
    handle = Scorer.start(ScorerSettings(world_size=2, cpus=0.5))
    handle.load(reward_folder).result()
    yield handle
    handle.close()


def test_scores_keep_their_order_and_carry_one_version(scorer: Scorer, reward_folder: Path) -> None:
    conversations = [conversation(question, f"Well: {question}") for question in QUESTIONS]
    conditions = ["helpful", "harmless", "helpful"]
    scored = scorer.score(conversations, conditions).result()
    model = RewardModel.load(reward_folder)
    expected = model.score_conversations(conversations, conditions)
    assert torch.allclose(torch.tensor(scored.values), expected, atol=1e-5)
    assert scored.rm_version == model.version
    assert scored.spreads == [None] * 3
    assert scorer.score([], []).result().values == []


def test_heads_that_disagree_are_heard(reward_folder: Path, tmp_path: Path) -> None:
    model = RewardModel.load(reward_folder)
    add_heads(model.network, 3, seed=0, std=0.1)
    folder = model.save(tmp_path / "heads", heads=3)
    worker = ScorerWorker(Rank("scorer", 0, 1, 1))
    worker.load(folder)
    rows = [(conversation(question, "Well."), "helpful") for question in QUESTIONS]
    answers, _ = worker.score([*rows, (conversation("Why?", "Well."), "helpfull")])
    inputs = [model.input(*row) for row in rows]
    scores, spreads = RewardModel.load(folder).score_with_spread(inputs)
    expected = map(Judged, scores.tolist(), spreads.tolist())
    assert answers[:-1] == list(expected)
    assert "helpfull" in str(answers[-1])


def test_what_cannot_be_scored_is_named(scorer: Scorer) -> None:
    good, empty = conversation("Hello?", "Yes."), (Message(role="user", content="Hello?"),)
    with pytest.raises(ValueError, match="2 conversations, 1 conditions"):
        scorer.score([good, good], ["helpful"])
    with pytest.raises(SamplesRefused, match=r"2 of the samples .*: sample 0: .*; c: ") as all_:
        scorer.score([empty, good, empty], ["helpful"] * 3, ["sample 0", "b", "c"]).result()
    assert set(all_.value.reasons) == {"sample 0", "c"}
    with pytest.raises(SamplesRefused, match=r"sample 1: .*helpfull"):
        scorer.score([good, good], ["helpful", "helpfull"]).result()


def test_a_score_that_is_no_number_is_refused(
    scorer: Scorer, reward_folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in reward_folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    weights["score.weight"][:] = torch.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    scorer.load(broken).result()
    with pytest.raises(SamplesRefused, match=r"sample 0: .* is nan"):
        scorer.score([conversation("Hello?", "Yes.")], ["helpful"]).result()
    scorer.load(reward_folder).result()
