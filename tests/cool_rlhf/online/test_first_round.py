"""Round 0 of a run that is given no reward model: pairs, labels, a reward model of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from actors.rollout import Finished
from cool_rlhf.online import sampling
from cool_rlhf.online.context import Context
from cool_rlhf.online.rounds import FIRST_STAGES, stages_of
from cool_rlhf.online.settings import OnlineSettings
from cool_rlhf.online.state import WaitingForLabels
from cool_rlhf.ppo.sampling.prompts import Prompt
from pretrain_core.errors import RunFailed
from pretrain_core.runs import Run, RunSettings, StopSignal
from pretrain_core.settings import SettingsError, load
from reward.data import read_preferences
from reward.model import RewardModel
from tests.cool_rlhf.conftest import Artefacts

NO_MODEL = ["reward_model=null", "preferences=null", "held_out_preferences=null"]
FIRST = [
    *NO_MODEL,
    "first_reward.conditions=configs/conditions/demo.yaml",
    "first_reward.prompts=18",
    "first_reward.train.max_length=128",
    "first_reward.train.batch_tokens=512",
    "first_reward.train.bf16=false",
]
SAID = {
    "first": "Peace is a great joy to all of the people, and so it is to all of us.",
    "second": "Peace is joy.",
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def started(
    artefacts: Artefacts,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Context:
    """A run before its first stage; the SFT model says one long and one short sentence."""
    monkeypatch.setenv("COOL_RLHF_CACHE", str(artefacts.cache))

    def answer(_: Context, __: Path, prompts: Sequence[Prompt], stage: str) -> list[Finished]:
        text = SAID[stage.partition("/")[2]]
        said: Any = [int(t) for t in tokenizer.encode(text, add_special_tokens=False)]
        one = [0.0] * len(said)
        return [Finished(p.id, said, one, None, "stop", [0] * len(said)) for p in prompts]

    monkeypatch.setattr(sampling, "answer", answer)
    settings = load(OnlineSettings, "configs/online/tiny.yaml", FIRST).value
    return Context(settings, Run.create(RunSettings(root=tmp_path), None, kind="online"))


def test_it_labels_its_own_samples_and_trains_the_first_reward_model(started: Context) -> None:
    for stage in FIRST_STAGES.values():
        stage(started, 0, StopSignal("resume"))
    training = read_preferences(started.preferences).records
    held_out = read_preferences(started.held_out_preferences).records
    prompts = [{str(r.prompt) for r in records} for records in (training, held_out)]
    assert all(prompts)
    assert not prompts[0] & prompts[1]
    liked = {(r.condition, r.chosen[0].content) for r in training}
    assert liked == {("brief", SAID["second"]), ("detailed", SAID["first"])}
    model = RewardModel.load(started.reward_model(1))
    assert set(model.card.conditions.names) == set(started.conditions.names)
    assert started.newest_reward_model(1) == started.folder(0) / "rm"


def test_too_few_labels_are_refused(started: Context) -> None:
    first = started.settings.first_reward
    assert first is not None
    few = first.model_copy(update={"prompts": 1})
    started.settings = started.settings.model_copy(update={"first_reward": few})
    for name in ("sample", "label"):
        FIRST_STAGES[name](started, 0, StopSignal("resume"))
    with pytest.raises(RunFailed, match=r"labels.jsonl: . labels .* raise first_reward.prompts"):
        FIRST_STAGES["reward"](started, 0, StopSignal("resume"))


def test_people_may_label_the_first_pairs(started: Context) -> None:
    labels = started.settings.labels.model_copy(update={"mode": "file", "lexicon": None})
    started.settings = started.settings.model_copy(update={"labels": labels})
    FIRST_STAGES["sample"](started, 0, StopSignal("resume"))
    with pytest.raises(WaitingForLabels, match=r"round 0 waits for labels: .*0/pairs/pairs.jsonl"):
        FIRST_STAGES["label"](started, 0, StopSignal("resume"))


def test_stages_of_a_round(started: Context) -> None:
    settings = started.settings
    assert list(stages_of(settings, 0)) == ["sample", "label", "reward", "evaluate"]
    given = settings.model_copy(update={"first_reward": None})
    assert list(stages_of(given, 0)) == ["evaluate"]
    assert list(stages_of(settings, settings.rounds)) == ["ppo", "evaluate"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (NO_MODEL, "reward_model, preferences, held_out_preferences: give it"),
        (["preferences=null"], "preferences: give it, or let round 0 make all three"),
        (FIRST[3:], "first_reward makes .* and reward_model, preferences, .* is given"),
    ],
)
def test_a_reward_model_is_given_or_made(
    artefacts: Artefacts, monkeypatch: pytest.MonkeyPatch, changes: list[str], said: str
) -> None:
    monkeypatch.setenv("COOL_RLHF_CACHE", str(artefacts.cache))
    with pytest.raises(SettingsError, match=said):
        load(OnlineSettings, "configs/online/tiny.yaml", changes)
