"""What a training can be told beside its recipe: adapters, heads, weights, checkpointing."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pretrain_core.chat import Message
from pretrain_core.runs import Run, RunSettings
from reward.card import RewardModelError
from reward.conditions import Conditions
from reward.data import Preference, write_preferences
from reward.lora import add_adapters, merge_adapters
from reward.model import RewardModel, read_card
from reward.pairs import tokenise_pairs
from reward.settings import LoraSettings, RewardTrainSettings
from reward.trainer import train_reward
from reward.weights import prompt_weights
from tests.support import run_python

Opposed = Callable[[int, int], list[Preference]]
Fit = Callable[..., Path]
TINY: dict[str, Any] = {
    "max_length": 64,
    "batch_tokens": 1024,
    "learning_rate": 2e-3,
    "final_learning_rate": 2e-4,
    "bf16": False,
    "log_every": 2,
}


@pytest.fixture
def fit(tmp_path: Path, model_folder: Path, conditions: Conditions) -> Fit:
    def run_it(
        records: list[Preference], name: str, run: Run | None = None, **changes: Any
    ) -> Path:
        settings = RewardTrainSettings(**TINY | changes)
        out, seed = tmp_path / name, 5
        return train_reward(
            settings,
            base=model_folder,
            train=records,
            out=out,
            conditions=conditions,
            run=run,
            seed=seed,
        )

    return run_it


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(RewardModel.load(folder).network.state_dict())


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - weight).abs().max()) for name, weight in other.items())


def test_adapters_merge_into_what_they_were(reward_folder: Path, opposed: Opposed) -> None:
    model, plain = RewardModel.load(reward_folder), RewardModel.load(reward_folder)
    inputs = [model.input([*r.prompt, *r.chosen], r.condition) for r in opposed(4, 0)]
    adapted = add_adapters(model, LoraSettings(rank=4, alpha=8), seed=1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.02)
                assert "lora_" in name or "score" in name or "token_adapter" in name, name
    before = model.forward(inputs, adapted).detach()
    merge_adapters(adapted, model)
    assert torch.allclose(model.score(inputs), before, atol=1e-5)
    assert (before - plain.score(inputs)).abs().max() > 1e-3
    assert set(model.network.state_dict()) == set(plain.network.state_dict())
    rows = model.network.get_input_embeddings().weight
    changed = (rows != plain.network.get_input_embeddings().weight).any(dim=1).nonzero()
    assert changed.flatten().tolist() == [model.score_id]


def test_training_with_adapters_and_heads_saves_a_plain_folder(
    fit: Fit, opposed: Opposed, model_folder: Path
) -> None:
    lora = {"rank": 4, "targets": ["q_proj", "down_proj"], "dropout": 0.1}
    out = fit(opposed(20, 1), "rm", lora=lora, heads=3, gradient_checkpointing=True)
    card = read_card(out)
    assert (card.heads, card.training["settings"]["lora"]["rank"]) == (3, 4)
    trained = weights(out)
    fresh = AutoModelForCausalLM.from_pretrained(model_folder).state_dict()
    same = {
        name for name, weight in trained.items() if torch.equal(fresh.get(name, weight), weight)
    }
    changed = {name.split(".")[-2] for name in set(trained) - same}
    assert changed == {"q_proj", "down_proj", "embed_tokens"}


def test_unknown_adapter_targets_are_refused(reward_folder: Path) -> None:
    with pytest.raises(RewardModelError, match=r"lora\.targets"):
        add_adapters(RewardModel.load(reward_folder), LoraSettings(targets=["attention_x"]), 1)


def test_further_heads_do_not_touch_the_score(fit: Fit, opposed: Opposed) -> None:
    records = opposed(20, 2)
    # A tight clip: the heads' gradients must not count in it.
    alone, many = (fit(records, f"{n}", heads=n, max_grad_norm=0.05) for n in (1, 4))
    assert furthest(weights(alone), {k: v for k, v in weights(many).items() if k[:3] != "ens"}) == 0
    heads = RewardModel.load(many).network.ensemble.weight
    assert torch.linalg.matrix_rank(heads) == 3


def test_heads_agree_on_what_was_learnt_and_differ_by_their_bootstrap(
    fit: Fit, opposed: Opposed
) -> None:
    model = RewardModel.load(fit(opposed(200, 3), "rm", heads=5, epochs=6))
    held_out = opposed(20, 4)
    inputs = [
        model.input([*r.prompt, *reply], r.condition)
        for r in held_out
        for reply in (r.chosen, r.rejected)
    ]
    with torch.inference_mode():
        heads = model.forward_heads(inputs)
    assert ((heads[::2] > heads[1::2]).float().mean(dim=0) > 0.8).all()
    scores, spread = model.score_with_spread(inputs)
    assert torch.corrcoef(torch.stack((scores, heads[:, 1:].mean(dim=1))))[0, 1] > 0.8
    assert 0 < spread.mean() < scores.std()


def test_gradient_checkpointing_changes_nothing(fit: Fit, opposed: Opposed) -> None:
    records = opposed(20, 6)
    plain, saved = (fit(records, str(n), gradient_checkpointing=bool(n)) for n in (0, 1))
    assert furthest(weights(plain), weights(saved)) < 1e-6


def many_and_one() -> list[Preference]:
    def message(role: str, text: str) -> tuple[Message, ...]:
        return (Message.model_validate({"role": role, "content": text}),)

    return [
        Preference(message("user", prompt), message("assistant", good), message("assistant", "no"))
        for prompt, good in [("a", "x"), ("a", "y"), ("a", "z"), ("b", "x")]
    ]


def test_prompts_share_their_weight_among_their_pairs(reward_folder: Path) -> None:
    records = many_and_one()
    assert prompt_weights(records) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])
    assert prompt_weights([]) == []
    model = RewardModel.load(reward_folder)
    assert [p.weight for p in tokenise_pairs(model, records, 0)[0]] == [1.0] * 4
    weighted = tokenise_pairs(model, records, 0, equal_prompts=True)[0]
    assert [p.weight for p in weighted] == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])


def test_weights_reach_the_gradient(reward_folder: Path, tmp_path: Path) -> None:
    """Three pairs of weight 2/3 and one of 2 over two unequal batches: the weighted mean."""
    from reward.losses import reward_loss
    from reward.trl_trainer import make_trainer

    model = RewardModel.load(reward_folder)
    pairs, _ = tokenise_pairs(model, many_and_one(), 0, equal_prompts=True)
    scores = model.forward([p.chosen_ids for p in pairs] + [p.rejected_ids for p in pairs])
    per_pair = reward_loss(scores[:4], scores[4:]).per_pair
    expected = (per_pair * torch.tensor([p.weight for p in pairs])).sum() / 4
    by_hand = torch.autograd.grad(expected, list(model.network.parameters()))

    settings = RewardTrainSettings(**TINY | {"accumulate": 2})
    plan = [[0], [1, 2, 3]]
    trainer = make_trainer(model, pairs, settings, 0, None, lambda e, r: plan, tmp_path)
    batches, total = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 2, "cpu")
    assert float(total) == pytest.approx(4.0)
    for batch in batches:
        trainer.training_step(model.network, batch, total)
    for parameter, reference in zip(model.network.parameters(), by_hand, strict=True):
        assert torch.allclose(parameter.grad, reference, rtol=1e-4, atol=1e-7)


KILLED = """
import os, signal, sys
from pathlib import Path
from pretrain_core.runs import Run, StopSignal
from reward.conditions import Conditions
from reward.data import read_preferences
from reward.settings import RewardTrainSettings
from reward.trainer import train_reward
import torch, json

torch.set_num_threads(1)
class Dies(StopSignal):
    looks = 0
    @property
    def requested(self):
        self.looks += 1
        if self.looks == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return False
    @requested.setter
    def requested(self, value):
        pass

base, data, out, run, settings, conditions = sys.argv[1:]
train_reward(
    RewardTrainSettings.model_validate_json(settings), base=Path(base),
    train=read_preferences(Path(data)).records, out=Path(out), run=Run.open(run), seed=5,
    conditions=Conditions.from_dict(json.loads(conditions)), stop=Dies(""),
)
"""


def test_a_killed_training_continues_bit_for_bit(
    fit: Fit, opposed: Opposed, tmp_path: Path, model_folder: Path, conditions: Conditions
) -> None:
    """SIGKILL in step 5, states saved every 2 steps: steps 5 and on are done again from step 4."""
    records = opposed(40, 4)
    data = write_preferences(tmp_path / "pairs.jsonl", records)
    changes = {"epochs": 2, "save_every": 2, "log_every": 3, "lora": {"rank": 2, "dropout": 0.1}}
    runs = [
        Run.create(RunSettings(root=tmp_path, name=name), None, kind="reward")
        for name in ("run-whole", "run-cut")
    ]
    whole = fit(records, "whole", run=runs[0], **changes)
    done = run_python(
        KILLED,
        *(str(path) for path in (model_folder, data, tmp_path / "cut", runs[1].path)),
        RewardTrainSettings(**TINY | changes).model_dump_json(),
        json.dumps(conditions.as_dict()),
        env={"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert [p.name for p in (tmp_path / ".cut.training").glob("checkpoint-*")] == ["checkpoint-4"]
    # What a kill in the middle of saving leaves behind is not continued from.
    (tmp_path / ".cut.training" / "checkpoint-6").mkdir()
    cut = fit(records, "cut", run=runs[1], **changes)
    assert furthest(weights(whole), weights(cut)) == 0.0
    assert read_card(cut).version == read_card(whole).version
    assert runs[0].metrics() == runs[1].metrics()
