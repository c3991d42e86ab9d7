"""The actors of one job, placed together: policy, critic, reference, scorer and rollout engines."""

import logging
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, model_validator

from actors.critic import Critic, CriticSettings
from actors.engines.protocol import OptimSettings
from actors.group import ActorFailed, Group
from actors.host import HostWorker
from actors.placement import Placement, RaySession, RaySettings, RoleResources, start_ray
from actors.policy import Policy, PolicySettings
from actors.reference import PolicyBase, Reference, ReferenceSettings
from actors.rollout import PushReport, Rollout, RolloutSettings, push
from actors.rollout.no_engine import NoEngine
from actors.rollout.rollout import ROLE
from actors.scorer import Scorer
from actors.scoring import ScorerSettings
from actors.supervisor import Supervisor
from pretrain_core.errors import RunFailed
from pretrain_core.settings import Settings

logger = logging.getLogger(__name__)

HOST = "host"

DEATH_PATIENCE_S = 5.0
"""How long an actor that does not answer may take to be found dead."""


class CrewSettings(Settings):
    """How many processes, threads and devices each role has."""

    ray: RaySettings = RaySettings()
    policy: PolicySettings = PolicySettings()
    critic: CriticSettings | None = Field(
        CriticSettings(), description="none: for estimators of advantages without one"
    )
    reference: ReferenceSettings | None = Field(
        ReferenceSettings(),
        description="none: the policy with its adapters off (crew.policy.lora), without a copy",
    )
    scorer: ScorerSettings = ScorerSettings()
    colocated: RoleResources | None = Field(
        None,
        description="processes that policy, critic, reference and local scorer share, in the place"
        " of their own, taking turns; none: each has its own",
    )
    rollout: RolloutSettings = RolloutSettings()
    restarts: int = Field(
        3, ge=0, description="deaths of actors in a row, without progress, before the run stops"
    )
    micro_batch_tokens: int = Field(
        8192, gt=0, description="tokens per forward and backward pass of a rank, padding counted"
    )
    keep_forward: bool = Field(
        False,
        description="policy and critic learn from the forward passes that gave log-probs and"
        " values: a fifth less to compute, but the activations of a whole iteration in memory",
    )

    @property
    def colocated_roles(self) -> tuple[str, ...]:
        """The roles in the processes of `colocated`."""
        if self.colocated is None:
            return ()
        # A scorer that waits for a service would make the others wait.
        local = ("scorer",) if self.scorer.kind == "local" else ()
        return ("policy", "critic", "reference", *local)

    @model_validator(mode="after")
    def _one_size_in_one_place(self) -> "CrewSettings":
        for name in self.colocated_roles:
            role: RoleResources | None = getattr(self, name)
            if role is not None and (role.world_size > 1 or role.gpus):
                raise ValueError(
                    f"{name} lives in the processes of colocated: give world_size and gpus there,"
                    f" not to {name}"
                )
        return self

    @model_validator(mode="after")
    def _whole_weights(self) -> "CrewSettings":
        trained = {"policy": self.policy, "critic": self.critic}
        for name, role in trained.items():
            if self.keep_forward and role is not None and role.engine.zero_stage == 3:
                raise ValueError(
                    f"keep_forward needs whole weights, and {name}.engine.zero_stage is 3: take a"
                    " lower stage, or keep_forward false"
                )
        return self

    @model_validator(mode="after")
    def _a_reference(self) -> "CrewSettings":
        if self.reference is None and self.policy.lora is None:
            raise ValueError(
                "reference null is the policy with its adapters off, and policy.lora is not set:"
                " give one of them"
            )
        return self


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


class Crew:
    """All roles of a job; they start once and may load other models later."""

    def __init__(self, settings: CrewSettings, session: RaySession, engines: bool) -> None:
        self.settings = settings
        self.session = session
        self._has_engines = engines
        self.rollout: Rollout | NoEngine = NoEngine()
        self._start_roles()

    @classmethod
    def start(cls, settings: CrewSettings, *, engines: bool = True) -> "Crew":
        """Join or start Ray, reserve room for all roles at once, start them.

        Without `engines` all samples must come from a log. Raises PlacementError or ActorFailed;
        what was started is ended then.
        """
        session = start_ray(settings.ray)
        try:
            return cls(settings, session, engines)
        except BaseException:
            session.close()
            raise

    def _start_roles(self) -> None:
        settings = self.settings
        self.models: Models | None = None
        self.policy_version = 0
        wanted: dict[str, RoleResources | None] = {
            "policy": settings.policy,
            "critic": settings.critic,
            "reference": settings.reference,
            "scorer": settings.scorer,
            "rollout": settings.rollout if self._has_engines else None,
        }
        shared = settings.colocated_roles
        own = {name: role for name, role in wanted.items() if role and name not in shared}
        if settings.colocated is not None:
            own[HOST] = settings.colocated
        placement = Placement(own)
        self.placement = placement
        self.host: Group | None = None
        if settings.colocated is not None:
            self.host = Group(HOST, HostWorker, settings.colocated, placement)

        def room(role: str) -> Placement | Group:
            return self.host if self.host is not None and role in shared else placement

        self.policy = Policy.start(settings.policy, room("policy"))
        self.critic = Critic.start(settings.critic, room("critic")) if settings.critic else None
        self.reference: Reference | PolicyBase = PolicyBase(self.policy)
        if settings.reference is not None:
            self.reference = Reference.start(settings.reference, room("reference"))
        self.scorer = Scorer.start(settings.scorer, room("scorer"))
        if self._has_engines:
            # Those that ran before name the engine that is to run again.
            engines = (
                self.rollout.settings if isinstance(self.rollout, Rollout) else settings.rollout
            )
            self.rollout = Rollout.start(engines, placement)

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
            self.scorer.load(models.reward_model),
        ]
        if isinstance(self.reference, Reference):
            pending.append(self.reference.load(models.reference, tokens))
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

    def push_weights(self, version: int) -> PushReport | None:
        """Bring the policy's weights into every engine and check that they arrived.

        None without engines. Raises WeightPushError when a checksum or the log-prob probe differs.
        """
        report = None
        if isinstance(self.rollout, Rollout):
            report = push(self.policy, self.rollout, version)
        self.policy_version = version
        return report

    def dead(self) -> list[ActorFailed]:
        """The actors whose process has died."""
        roles = (self.policy, self.critic, self.reference, self.scorer, self.rollout)
        groups = [role.group for role in roles if role is not None and role.group is not None]
        return Supervisor(groups).dead(DEATH_PATIENCE_S)

    def revive_rollout(self, failure: RunFailed) -> None:
        """Start the rollout engines again, with the policy's present weights.

        Raises `failure` unless it came of the death of an engine, and of nothing else.
        """
        if self.models is None or {dead.role for dead in self.dead()} != {ROLE}:
            raise failure
        logger.warning("%s: the engines start again, for the replies that are missing", failure)
        self.rollout.restart()
        self.rollout.load(self.models.policy, self.policy_version)
        self.push_weights(self.policy_version)

    def restart(self) -> None:
        """End all roles and start them anew, without models; Ray goes on."""
        self._end_roles()
        self._start_roles()

    def close(self) -> None:
        """End all actors, and Ray if it was started here."""
        self._end_roles()
        self.session.close()

    def _end_roles(self) -> None:
        for role in (self.policy, self.critic, self.reference, self.scorer, self.rollout):
            if role is not None:
                role.close()
        if self.host is not None:
            self.host.close()
        self.placement.close()
