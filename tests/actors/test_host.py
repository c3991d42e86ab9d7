"""Roles in one process: the same numbers as in processes of their own, frozen weights once."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from actors.batch import Totals
from actors.critic import Critic, CriticSettings
from actors.engines.lora import LoraSettings
from actors.engines.protocol import EngineSettings, OptimSettings
from actors.group import ActorFailed, Group
from actors.placement import RoleResources
from actors.policy import Policy, PolicySettings
from actors.reference import Reference
from actors.scorer import Scorer
from actors.supervisor import Supervisor
from pretrain_core.chat import Message
from reward.conditions import Conditions
from reward.model import RewardModel, create_reward_model
from tests.actors.probe import ProbeHostWorker
from tests.actors.samples import random_experience

EXPERIENCE = random_experience([12, 30, 7, 21, 16], seed=5)
TOTALS = Totals.of(EXPERIENCE.sequences)
OPTIM = OptimSettings(lr=1e-2)
LORA = LoraSettings(rank=4, alpha=8)
FP32 = EngineSettings(dtype="float32")
POLICY = PolicySettings(cpus=0.5, engine=FP32, lora=LORA, ptx_coef=0)
CRITIC = CriticSettings(cpus=0.5, engine=FP32, lora=LORA)


@dataclass
class Roles:
    host: Group
    policy: Policy
    critic: Critic
    reference: Reference
    scorer: Scorer


@pytest.fixture
def hosted(ray_session: object) -> Iterator[Roles]:
    host = Group("host", ProbeHostWorker, RoleResources(cpus=0.5))
    yield Roles(
        host,
        Policy.start(POLICY, host),
        Critic.start(CRITIC, host),
        Reference.start(None, host),
        Scorer.start(None, host),
    )
    host.close()


def test_they_compute_what_they_compute_apart_on_frozen_weights_that_are_there_once(
    hosted: Roles, model_folder: Path, tmp_path: Path
) -> None:
    reward_folder = create_reward_model(model_folder, tmp_path / "rm", Conditions.load(), seed=1)
    alone = Policy.start(POLICY)
    pending = [
        *(policy.load(model_folder, OPTIM, seed=7) for policy in (hosted.policy, alone)),
        hosted.critic.load(reward_folder, OPTIM, seed=7),
        hosted.reference.load(model_folder),
        hosted.scorer.load(reward_folder),
    ]
    for part in pending:
        part.result()
    sequences = EXPERIENCE.sequences
    asked = [role.logprobs(sequences) for role in (hosted.policy, hosted.reference, alone)]
    found = [one.result().logprobs for one in asked]
    assert all(torch.equal(found[0], other) for other in found[1:])
    conversation = [Message(role="user", content="Why?"), Message(role="assistant", content="So.")]
    scored = hosted.scorer.score([conversation], ["harmless"]).result()
    expected = RewardModel.load(reward_folder).score_conversations([conversation], ["harmless"])
    assert scored.values == expected.tolist()

    steps = [
        hosted.policy.update(EXPERIENCE, None, TOTALS),
        hosted.critic.update(EXPERIENCE, TOTALS),
    ]
    metrics = [step.result() for step in steps]
    assert metrics[0] == alone.update(EXPERIENCE, None, TOTALS).result()
    assert metrics[1]["critic/grad_norm"] > 0
    moved, other = (
        policy.logprobs(sequences).result().logprobs for policy in (hosted.policy, alone)
    )
    assert torch.equal(moved, other)
    assert not torch.equal(moved, found[0])
    # What they share is what nobody changes.
    assert torch.equal(hosted.reference.logprobs(sequences).result().logprobs, found[0])
    alone.close()

    (held,) = hosted.host.call("frozen_bytes").result()
    files = [folder / "model.safetensors" for folder in (model_folder, reward_folder)]
    stored = [sum(w.numel() * 4 for w in load_file(file).values()) for file in files]
    # All four: the reward model's body is that of the policy here.
    assert held == pytest.approx(max(stored), rel=0.01)


def test_the_death_of_a_host_is_that_of_its_roles(hosted: Roles) -> None:
    groups = [hosted.policy.group, hosted.critic.group]
    (process,) = hosted.host.call("ping").result()
    assert [group.call("ping").result() for group in groups] == [[process]] * 2
    os.kill(process, signal.SIGKILL)
    with pytest.raises(ActorFailed, match="critic rank 0 failed"):
        hosted.critic.values(EXPERIENCE.sequences).result()
    assert {dead.role for dead in Supervisor(groups).dead(5.0)} == {"policy", "critic"}
