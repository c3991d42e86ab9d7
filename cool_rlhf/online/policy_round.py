"""Stage `ppo`: train the round's policy, note its early and its late version."""

from cool_rlhf.online.context import Context
from cool_rlhf.ppo.build import open_or_create_run, train_ppo
from cool_rlhf.ppo.settings import PPOSettings
from pretrain_core.draws import seed_of
from pretrain_core.runs import RunSettings, StopSignal, write_json


def round_settings(context: Context, number: int) -> PPOSettings:
    """The PPO settings of a round: the recipe, with the round's own models and seed."""
    settings = context.settings
    start = context.policy(number - 1) if settings.init == "previous" and number > 1 else None
    return PPOSettings(
        **settings.ppo.model_dump(),
        run=RunSettings(
            root=context.folder(number).parent,
            name=str(number),
            seed=seed_of(settings.run.seed, "round", number),
        ),
        policy=settings.sft,
        initial_policy=start,
        reward_model=context.reward_model(number),
        prompts=settings.prompts,
    )


def train_policy(context: Context, number: int, stop: StopSignal) -> None:
    """PPO against the newest promoted reward model; resumes inside a half-done round."""
    settings = round_settings(context, number)
    parents = {"reward_model": settings.reward_model, "sft": settings.policy}
    run = open_or_create_run(settings, parents)
    trained = train_ppo(settings, run, context.crew, stop)
    write_json(
        context.folder(number) / "policies.json",
        {"early": str(trained.early), "late": str(trained.late)},
    )
