import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain_core.runs import Run, RunSettings
from reward.conditions import Condition, Conditions, UnknownCondition
from reward.data import Preference
from reward.evaluation import compare, pair_scores
from reward.model import RewardModel, RewardModelError, create_reward_model, read_card
from reward.packing import plan_batches
from reward.pairs import tokenise_pairs
from reward.settings import RewardTrainSettings
from reward.trainer import RewardTrainingError, RewardTrainingStopped, train_reward
from tests.support import StopAfter

Maker = Callable[..., Preference]
Opposed = Callable[[int, int], list[Preference]]
TINY: dict[str, Any] = {
    "max_length": 64,
    "batch_tokens": 1024,
    "learning_rate": 2e-3,
    "final_learning_rate": 2e-4,
    "bf16": False,
    "log_every": 5,
}


@pytest.fixture
def fit(tmp_path: Path, model_folder: Path, conditions: Conditions) -> Callable[..., Path]:
    def run_it(records: list[Preference], name: str = "rm", **changes: Any) -> Path:
        arguments: dict[str, Any] = {
            "base": model_folder,
            "conditions": conditions,
            "seed": 5,
            "out": tmp_path / name,
        }
        arguments |= {k: changes.pop(k) for k in list(changes) if k not in SETTINGS}
        settings = RewardTrainSettings(**TINY | changes)
        return train_reward(settings, train=records, **arguments)

    return run_it


SETTINGS = set(RewardTrainSettings.model_fields)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(RewardModel.load(folder).network.state_dict())


def test_conditions_resolve_what_no_unconditional_model_can(
    fit: Callable[..., Path], opposed: Opposed, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train, held_out = opposed(250, 1), opposed(60, 2)
    run = Run.create(RunSettings(root=tmp_path, name="run"), None, kind="reward")
    with run:
        conditional = RewardModel.load(fit(train, "with", run=run, bf16=True, epochs=5))
    blind = RewardModel.load(fit(train, "without", use_condition=False, epochs=2))
    report = compare(conditional, blind, held_out)
    on_conflicts = report.accuracy["conflicting"]
    assert on_conflicts["with conditions"].low > 0.9
    assert on_conflicts["without"].mean == 0.5
    assert on_conflicts["wrong condition"].high < 0.1
    assert report.difference["conflicting"]["without"].excludes_zero
    assert report.scores["with conditions"].outside_band == 0.0

    rows = run.metrics()
    assert rows[-1]["rewards/accuracies"] > rows[0]["rewards/accuracies"]
    assert rows[0]["loss/reward"] == pytest.approx(
        rows[0]["loss/ranking"] + 0.02 * rows[0]["loss/penalty"]
    )
    assert {"rm/bright/accuracy", "rm/dark/accuracy", "rm/default/accuracy"} <= set().union(*rows)
    assert rows[0]["learning_rate"] > rows[-1]["learning_rate"] >= 2e-4
    facts = run.manifest["reward"]
    assert facts["pairs"] == 500
    assert facts["ended_by"] == "data"
    assert facts["version"] == conditional.version
    assert capfd.readouterr().out == ""


def test_training_reads_what_scoring_reads(reward_folder: Path, opposed: Opposed) -> None:
    """Golden: the tokens of training are those of scoring and evaluation."""
    model, records = RewardModel.load(reward_folder), opposed(5, 0)
    pairs, left_out = tokenise_pairs(model, records, seed=0)
    assert not left_out
    for tokenised, record in zip(pairs, records, strict=True):
        expected = model.input([*record.prompt, *record.chosen], record.condition)
        assert tokenised.chosen_ids == expected
        assert tokenised.rejected_ids == model.input(
            [*record.prompt, *record.rejected], record.condition
        )
    scores = model.score([p.chosen_ids for p in pairs] + [p.rejected_ids for p in pairs])
    found = pair_scores(model, records)
    assert [*found.chosen, *found.rejected] == pytest.approx(scores.tolist(), abs=1e-6)


def test_condition_dropout_is_drawn_from_the_seed(reward_folder: Path, opposed: Opposed) -> None:
    model, records = RewardModel.load(reward_folder), opposed(200, 0)

    def dropped(seed: int, share: float) -> list[bool]:
        pairs, _ = tokenise_pairs(model, records, seed, share)
        return [pair.condition == "default" for pair in pairs]

    once = dropped(1, 0.2)
    assert once == dropped(1, 0.2)
    assert once != dropped(2, 0.2)
    assert sum(once) / len(once) == pytest.approx(0.2, abs=0.06)
    assert not any(dropped(1, 0.0))
    more = dropped(1, 0.4)
    assert all(b for a, b in zip(once, more, strict=True) if a)


def test_without_conditions_every_input_is_the_default_one(
    fit: Callable[..., Path], opposed: Opposed
) -> None:
    records = opposed(10, 0)
    model = RewardModel.load(fit(records, use_condition=False))
    talk = [*records[0].prompt, *records[0].chosen]
    assert model.input(talk, "bright") == model.input(talk, "dark") == model.input(talk, None)
    with pytest.raises(UnknownCondition):
        model.input(talk, "dork")


def test_gradients_are_divided_by_the_pairs_of_the_whole_step(
    reward_folder: Path, opposed: Opposed, tmp_path: Path
) -> None:
    """Two batches of unequal size give the gradient of one; an empty batch changes nothing."""
    from reward.trl_trainer import make_trainer

    records = opposed(6, 3)
    gradients = []
    for plan in ([list(range(12))], [[0, 1, 2], list(range(3, 12))], [list(range(12)), []]):
        model = RewardModel.load(reward_folder)
        pairs, _ = tokenise_pairs(model, records, seed=0)
        settings = RewardTrainSettings(**TINY | {"accumulate": len(plan)})
        trainer = make_trainer(
            model, pairs, settings, 0, None, lambda epoch, ranks, plan=plan: plan, tmp_path
        )
        stream = iter(trainer.get_train_dataloader())
        batches, count = trainer.get_batch_samples(stream, len(plan), torch.device("cpu"))
        assert int(count) == 12
        for batch in batches:
            trainer.training_step(model.network, batch, count)
        gradients.append([p.grad.clone() for p in model.network.parameters()])
    for other in gradients[1:]:
        for mine, reference in zip(other, gradients[0], strict=True):
            assert torch.allclose(mine, reference, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("steps", [3, 12])
def test_a_stopped_training_continues_exactly(
    fit: Callable[..., Path], opposed: Opposed, steps: int
) -> None:
    """In the middle of the first epoch, and of the second."""
    records = opposed(40, 4)
    whole = fit(records, "whole", epochs=2)
    assert read_card(whole).training["steps"] in range(13, 23)
    with pytest.raises(RewardTrainingStopped, match=f"after step {steps} of"):
        fit(records, "cut", epochs=2, stop=StopAfter(steps - 1))
    assert not whole.with_name("cut").exists()
    cut = fit(records, "cut", epochs=2)
    assert read_card(cut).training["steps"] == read_card(whole).training["steps"]
    for name, weight in weights(whole).items():
        assert torch.equal(weights(cut)[name], weight), name
    assert read_card(cut).version == read_card(whole).version
    assert not cut.with_name(".cut.training").exists()


def test_a_stopped_training_of_other_data_is_not_continued(
    fit: Callable[..., Path], opposed: Opposed, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RewardTrainingStopped):
        fit(opposed(20, 4), stop=StopAfter(0))
    with caplog.at_level(logging.WARNING):
        fit(opposed(20, 5))
    assert "starting anew" in caplog.text


def test_a_loss_that_is_no_number_names_step_and_records(
    fit: Callable[..., Path], make_pair: Maker, model_folder: Path, tmp_path: Path
) -> None:
    conditions = Conditions([])
    base = create_reward_model(model_folder, tmp_path / "base", conditions, seed=1)
    model = RewardModel.load(base)
    tilde = model.tokenizer.convert_tokens_to_ids("~")
    with torch.no_grad():
        model.network.get_input_embeddings().weight[tilde] = float("nan")
    broken = model.save(tmp_path / "broken")
    records = [make_pair(f"reply {n}", "no", id=f"good-{n}") for n in range(5)]
    records.append(make_pair("a ~ here", "no", id="poison"))
    with pytest.raises(RewardTrainingError, match=r"step 1: the loss.*records: poison\."):
        fit(records, base=broken, conditions=conditions)
    assert not (tmp_path / "rm").exists()


def test_a_time_budget_ends_training_after_a_step(
    fit: Callable[..., Path], opposed: Opposed
) -> None:
    training = read_card(fit(opposed(60, 1), max_seconds=1e-6)).training
    assert training["ended_by"] == "time"
    assert training["steps"] == 1 < training["planned_steps"]


def test_a_reward_model_continues_with_more_conditions(
    fit: Callable[..., Path], opposed: Opposed, reward_folder: Path, conditions: Conditions
) -> None:
    more = Conditions([*conditions, Condition("terse", "Prefer short replies.")])
    out = fit(
        opposed(10, 0),
        base=reward_folder,
        conditions=more,
        learning_rate=1e-9,
        final_learning_rate=0.0,
        parents={"old": reward_folder},
    )
    card = read_card(out)
    assert card.conditions.names == more.names
    assert card.parents["base"] == card.parents["old"]
    before, after = weights(reward_folder), weights(out)
    assert torch.allclose(after["score.weight"], before["score.weight"], atol=1e-6)

    reworded = Conditions([Condition("bright", "Other words."), Condition("dark", "Dark.")])
    with pytest.raises(RewardModelError, match=r"reworded: \['bright', 'dark'\]"):
        fit(opposed(2, 0), "x", base=reward_folder, conditions=reworded)
    with pytest.raises(RewardModelError, match=r"missing now: \['dark'"):
        fit(opposed(2, 0), "x", base=reward_folder, conditions=conditions.subset(["bright"]))
    with pytest.raises(RewardModelError, match="use_condition=True"):
        fit(opposed(2, 0), "x", base=reward_folder, use_condition=False)


def test_replies_that_are_too_long_are_left_out_and_counted(
    fit: Callable[..., Path], opposed: Opposed, make_pair: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    records = [*opposed(10, 0), make_pair("word " * 200, "no", id="long")]
    with caplog.at_level(logging.WARNING):
        training = read_card(fit(records)).training
    assert (training["records"], training["pairs"], training["left_out"]) == (21, 20, 1)
    assert "1 of 21 pairs left out" in caplog.text
    assert "long: condition (0) and reply" in caplog.text


def test_what_cannot_be_trained_is_refused_before_work_starts(
    fit: Callable[..., Path], opposed: Opposed, make_pair: Maker, reward_folder: Path
) -> None:
    with pytest.raises(UnknownCondition, match="did you mean 'bright'"):
        fit([make_pair("a", "b", condition="brigth")])
    with pytest.raises(RewardTrainingError, match=r"no pair to train on \(0 records"):
        fit([])
    with pytest.raises(RewardTrainingError, match="the first was left out because"):
        fit([make_pair("word " * 200, "no")])
    with pytest.raises(RewardModelError, match="not empty"):
        fit(opposed(2, 0), out=reward_folder)


def test_margins_reach_the_loss(fit: Callable[..., Path], make_pair: Maker) -> None:
    plain = [make_pair(f"sun {n}", f"night {n}", id=str(n)) for n in range(20)]
    wide = [make_pair(f"sun {n}", f"night {n}", id=str(n), margin=3.0) for n in range(20)]
    losses = [
        read_card(fit(records, name, learning_rate=1e-9, final_learning_rate=0.0)).training[
            "last_metrics"
        ]["loss/ranking"]
        for name, records in (("plain", plain), ("wide", wide))
    ]
    assert losses[1] > losses[0] + 2


def test_settings_that_hold_no_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 128 are needed"):
        RewardTrainSettings(max_length=64, batch_tokens=100)
    with pytest.raises(ValueError, match="above learning_rate"):
        RewardTrainSettings(learning_rate=1e-6)


def test_presets_hold_the_reports_values() -> None:
    from pretrain_core.settings import load

    paper = load(RewardTrainSettings, "configs/recipes/reward-paper.yaml").value
    assert (paper.batch_tokens, paper.max_length, paper.epochs) == (16384, 8192, 1)
    assert (paper.learning_rate, paper.final_learning_rate) == (1e-5, 5e-6)
    assert (paper.weight_decay, paper.loss.gamma, paper.loss.penalty_weight) == (0.01, 2.0, 0.02)
    assert paper == RewardTrainSettings()
    load(RewardTrainSettings, "configs/recipes/reward-tiny.yaml")


def test_the_plan_is_the_one_of_the_seed(reward_folder: Path, opposed: Opposed) -> None:
    model = RewardModel.load(reward_folder)
    pairs, _ = tokenise_pairs(model, opposed(20, 0), seed=0)
    lengths = [pair.lengths for pair in pairs]
    assert plan_batches(lengths, 512, 1) == plan_batches(lengths, 512, 1)
