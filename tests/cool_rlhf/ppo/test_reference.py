"""The real actors compute what plain PyTorch computes: the report's PPO, gradient for gradient."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from actors.batch import Sequences
from actors.crew import Crew, CrewSettings
from actors.critic import Critic, CriticSettings
from actors.engines.protocol import EngineSettings, OptimSettings
from actors.group import Group
from actors.host import HostWorker
from actors.placement import RaySession, RoleResources
from actors.policy import Policy, PolicySettings
from actors.reference import Reference, ReferenceSettings
from actors.rollout import Finished, Request
from actors.scoring import Scored
from cool_rlhf.ppo.algorithm import AlgorithmSettings, KLControl, ScoreScale
from cool_rlhf.ppo.experience import ExperienceMaker
from cool_rlhf.ppo.monitor.guards import Guards
from cool_rlhf.ppo.monitor.measure import Clock
from cool_rlhf.ppo.pipeline import Pipeline
from cool_rlhf.ppo.rewards import Rewards
from cool_rlhf.ppo.sampling.prompts import Prompt
from cool_rlhf.ppo.settings import PPOSettings
from cool_rlhf.ppo.updates import update_actor_and_critic
from pretrain_core.chat import Message
from pretrain_core.draws import rng
from pretrain_core.settings import load
from reward.compose import RewardComposer
from reward.conditions import Conditions
from tests.actors.probe import ProbeCriticWorker, ProbePolicyWorker
from tests.cool_rlhf.conftest import Artefacts
from tests.cool_rlhf.ppo.reference_ppo import PlainPPO, Sample, cut
from tests.cool_rlhf.ppo.sampling.test_rollouts import rollouts
from tests.cool_rlhf.ppo.test_experience import Answered

# With so large an ε, and no memory of gradients, AdamW is plain descent at lr/ε.
RATE = 0.05
PLAIN = OptimSettings(lr=RATE * 1e8, eps=1e8, betas=(0.0, 0.999), grad_clip=1e9)
FP32 = EngineSettings(dtype="float32")
PROMPTS = [
    Prompt(f"p{i}", (Message(role="user", content="q"),), "helpful", tuple(range(4, 9 + i)))
    for i in range(3)
]


class Babbling:
    """Says random tokens: replies of unequal length, the same ones whenever it is asked."""

    engine = "babble"

    def generate(self, requests: Sequence[Request], *_: Any) -> Iterator[Finished]:
        for request in requests:
            draw = rng(0, "babble", sample=request.seed)
            tokens = draw.integers(10, 500, size=int(draw.integers(2, 24))).tolist()
            unknown = [-1.0] * len(tokens)
            yield Finished(request.id, tokens, unknown, None, "stop", [0] * len(tokens))


def score(samples: Sequence[Any], conditions: Sequence[str], names: Sequence[str]) -> Answered:
    values = [float(rng(1, "score", sample=name).normal()) for name in names]
    return Answered(Scored(values, "v", [None for _ in names]))


@pytest.fixture(scope="module")
def actors(ray_session: RaySession, request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """Real policy, critic and reference, apart or together, and a scorer that draws."""
    host = None
    if request.param == "together":
        host = Group("host", HostWorker, RoleResources(cpus=0.5))
    policy_settings = PolicySettings(cpus=0.5, engine=FP32)
    critic_settings = CriticSettings(cpus=0.5, engine=FP32)
    made = SimpleNamespace(
        policy=Policy(
            Group("policy", ProbePolicyWorker, policy_settings, host, arguments=(policy_settings,)),
            policy_settings,
        ),
        critic=Critic(
            Group("critic", ProbeCriticWorker, critic_settings, host, arguments=(critic_settings,))
        ),
        reference=Reference.start(ReferenceSettings(dtype="float32", cpus=0.5), host),
        scorer=SimpleNamespace(score=score),
        policy_version=0,
        settings=CrewSettings(),
    )
    yield made
    for role in (made.policy, made.critic, made.reference):
        role.close()
    if host is not None:
        host.close()


@pytest.fixture
def crew(actors: SimpleNamespace, artefacts: Artefacts, moved_policy: Path) -> SimpleNamespace:
    """The actors, as they are before they have learnt."""
    loading = [
        actors.policy.load(moved_policy, PLAIN, 0, None, 64),
        actors.critic.load(artefacts.demo / "reward", PLAIN, 0, None, 64),
        actors.reference.load(artefacts.demo / "sft", 64),
    ]
    for part in loading:
        part.result()
    return actors


@pytest.fixture(scope="module")
def moved_policy(artefacts: Artefacts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that has left its reference, so that there is a KL."""
    folder = tmp_path_factory.mktemp("moved")
    model = AutoModelForCausalLM.from_pretrained(artefacts.demo / "sft")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return folder


def weights(crew: SimpleNamespace) -> dict[str, torch.Tensor]:
    """Of policy and critic, by name."""
    return {
        f"{role}.{name}": weight
        for role in ("policy", "critic")
        for name, weight in getattr(crew, role).group.only(0, "all_weights").result().items()
    }


@pytest.mark.parametrize(
    ("actors", "layout", "keep_forward"),
    [("apart", "split", False), ("apart", "pipelined", False), ("together", "pipelined", True)],
    indirect=["actors"],
)
def test_two_iterations_equal_the_plain_ones(
    layout: str,
    keep_forward: bool,
    crew: SimpleNamespace,
    moved_policy: Path,
    artefacts: Artefacts,
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    crew.settings = CrewSettings(keep_forward=keep_forward)
    given = [f"policy={moved_policy}", f"reward_model={artefacts.demo / 'reward'}"]
    settings = load(PPOSettings, "configs/ppo/paper.yaml", given).value
    algorithm: AlgorithmSettings = settings.algorithm
    collecting = rollouts(cast(Any, Babbling()), tmp_path, tokenizer)
    maker = ExperienceMaker(
        cast(Crew, crew),
        collecting.log,
        collecting,
        algorithm,
        Rewards(crew.scorer, -5.0, RewardComposer(settings.rewards, Conditions([]))),
        ScoreScale(algorithm),
        KLControl(algorithm),
    )
    plain = PlainPPO(moved_policy, artefacts.demo / "sft", artefacts.demo / "reward", RATE)
    text = Sequences.pack([(list(range(20, 20 + n)), [False] + [True] * (n - 1)) for n in (9, 31)])
    pipeline = Pipeline(
        cast(Crew, crew), collecting, maker, Guards(settings.guards), chunks=3, mini_batches=1
    )
    for iteration in range(2):
        before = weights(crew)
        if layout == "pipelined":
            batch, metrics = pipeline.learn(iteration, PROMPTS, text, Clock())
        else:
            batch = maker.make(iteration, collecting.collect(iteration, PROMPTS))
            metrics = update_actor_and_critic(
                cast(Crew, crew), batch, text, settings, iteration, train_policy=True
            )
        after = weights(crew)
        samples = [
            Sample(t.tokens, t.is_action, score)
            for t, score in zip(batch.trajectories, batch.scores.tolist(), strict=True)
        ]
        gradients = plain.iteration(samples, cut(text.tokens, text.cu_seqlens.tolist()))
        assert gradients.keys() == before.keys()
        for name, gradient in gradients.items():
            error = (before[name] - after[name] - RATE * gradient).norm()
            # The critic's body learns nothing while its head is zero.
            assert error <= 2e-3 * RATE * gradient.norm() + 1e-6, (iteration, name)
        assert metrics["policy/first_ratio"] == pytest.approx(1.0, abs=1e-4)
        assert float(batch.kl.abs().mean()) > 0.1
    assert batch.experience.old_values is not None
    assert batch.experience.old_values.abs().max() > 0
