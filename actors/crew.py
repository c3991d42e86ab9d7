"""The actors of one job, placed together: policy, critic, reference, scorer and rollout engines."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from actors.critic import Critic, CriticSettings
from actors.engines.protocol import OptimSettings
from actors.placement import Placement, RaySession, RaySettings, RoleResources, start_ray
from actors.policy import Policy, PolicySettings
from actors.reference import Reference, ReferenceSettings
from actors.rollout import PushReport, Rollout, RolloutSettings, push
from actors.scorer import Scorer
from actors.scoring import ScorerSettings
from pretrain_core.settings import Settings


class CrewSettings(Settings):
    """How many processes, threads and devices each role has."""

    ray: RaySettings = RaySettings()
    policy: PolicySettings = PolicySettings()
    critic: CriticSettings | None = Field(
        CriticSettings(), description="none: for estimators of advantages without one"
    )
    reference: ReferenceSettings = ReferenceSettings()
    scorer: ScorerSettings = ScorerSettings()
    rollout: RolloutSettings = RolloutSettings()
    micro_batch_tokens: int = Field(
        8192, gt=0, description="tokens per forward and backward pass of a rank, padding counted"
    )


@dataclass(frozen=True)
class Models:
    """What the actors of a PPO run are loaded with."""

    policy: Path
    reference: Path
    reward_model: Path
    actor_optim: OptimSettings
    critic_optim: OptimSettings
    seed: int
    critic: Path | None = None
    """What the critic starts from; None: the reward model."""


@dataclass
class Crew:
    """All roles of a job; they start once and may load other models later."""

    settings: CrewSettings
    session: RaySession
    placement: Placement
    policy: Policy
    critic: Critic | None
    reference: Reference
    scorer: Scorer
    rollout: Rollout
    policy_version: int = 0
    models: Models | None = None

    @classmethod
    def start(cls, settings: CrewSettings) -> "Crew":
        """Join or start Ray, reserve room for all roles at once, start them.

        Raises PlacementError or ActorFailed; what was started is ended then.
        """
        session = start_ray(settings.ray)
        try:
            roles: dict[str, RoleResources | None] = {
                "policy": settings.policy,
                "critic": settings.critic,
                "reference": settings.reference,
                "scorer": settings.scorer,
                "rollout": settings.rollout,
            }
            placement = Placement({name: role for name, role in roles.items() if role})
            return cls(
                settings=settings,
                session=session,
                placement=placement,
                policy=Policy.start(settings.policy, placement),
                critic=Critic.start(settings.critic, placement) if settings.critic else None,
                reference=Reference.start(settings.reference, placement),
                scorer=Scorer.start(settings.scorer, placement),
                rollout=Rollout.start(settings.rollout, placement),
            )
        except BaseException:
            session.close()
            raise

    def load(self, models: Models, state: Path | None = None, version: int = 0) -> None:
        """Load all roles, the trained ones from the training state in `state` if given.

        The engine gets the policy's weights as version `version`.
        """
        tokens = self.settings.micro_batch_tokens
        pending = [
            self.policy.load(
                models.policy,
                models.actor_optim,
                models.seed,
                state and state / "policy_state",
                tokens,
            ),
            self.reference.load(models.reference, tokens),
            self.scorer.load(models.reward_model),
        ]
        if self.critic is not None:
            pending.append(
                self.critic.load(
                    models.critic or models.reward_model,
                    models.critic_optim,
                    models.seed,
                    state and state / "critic_state",
                    tokens,
                )
            )
        self.rollout.load(models.policy, version)
        for part in pending:
            part.result()
        self.models = models
        self.policy_version = version
        if state is not None:
            self.push_weights(version)

    def push_weights(self, version: int) -> PushReport:
        """Bring the policy's weights into every engine and check that they arrived.

        Raises WeightPushError when a checksum or the log-prob probe differs.
        """
        report = push(self.policy, self.rollout, version)
        self.policy_version = version
        return report

    def close(self) -> None:
        """End all actors, and Ray if it was started here."""
        for role in (self.policy, self.critic, self.reference, self.scorer, self.rollout):
            if role is not None:
                role.close()
        self.placement.close()
        self.session.close()
