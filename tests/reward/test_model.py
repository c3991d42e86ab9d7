import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from reward.conditions import Conditions, UnknownCondition
from reward.inputs import RewardInputError
from reward.model import (
    RewardModel,
    RewardModelError,
    create_reward_model,
    read_card,
    read_conditions,
)
from reward.network import ScoreHead
from reward.packing import pad_right
from reward.remembering import RememberingModel

TALKS = [
    [
        {"role": "user", "content": "Say it." * repeat},
        {"role": "assistant", "content": "A stone and a river. " * (5 - repeat)},
    ]
    for repeat in (1, 4, 2)
]
NAMES = ["bright", "dark", None]


@pytest.fixture(scope="module")
def model(reward_folder: Path) -> RewardModel:
    return RewardModel.load(reward_folder)


def test_a_fresh_model_keeps_the_backbone_and_has_a_small_random_head(
    reward_folder: Path, model_folder: Path, model: RewardModel
) -> None:
    sft = LlamaForCausalLM.from_pretrained(model_folder).state_dict()
    ours = model.network.state_dict()
    for name, weight in sft.items():
        if name != "lm_head.weight":
            assert torch.equal(ours[name], weight), name
    assert ours["score.weight"].shape == (1, 64)
    assert ours["score.weight"].dtype == torch.float32
    assert 0 < model.score_conversations(TALKS, NAMES).abs().max() < 1
    assert model.network.config.num_labels == 1


def test_the_head_comes_from_the_seed(
    tmp_path: Path, model_folder: Path, conditions: Conditions, model: RewardModel
) -> None:
    same = create_reward_model(model_folder, tmp_path / "same", conditions, seed=7)
    other = create_reward_model(model_folder, tmp_path / "other", conditions, seed=8)
    assert RewardModel.load(same).version == model.version
    assert RewardModel.load(other).version != model.version


def test_hugging_face_gives_the_same_scores(reward_folder: Path, model: RewardModel) -> None:
    theirs = AutoModelForSequenceClassification.from_pretrained(reward_folder).eval()
    inputs = [model.input(talk, name) for talk, name in zip(TALKS, NAMES, strict=True)]
    ours = model.score(inputs)
    tokens = pad_right(inputs, model.tokenizer.pad_token_id)
    mask = (tokens != model.tokenizer.pad_token_id).long()
    with torch.inference_mode():
        batch = theirs(input_ids=tokens, attention_mask=mask).logits.squeeze(-1)
        alone = [theirs(input_ids=torch.tensor([i])).logits.item() for i in inputs]
    assert torch.allclose(ours, batch, atol=1e-4)
    assert torch.allclose(ours, torch.tensor(alone), atol=1e-4)


def test_the_score_is_read_at_the_score_token_whatever_the_padding(model: RewardModel) -> None:
    """Fault 6: a score read at a padding position, or changed by padding."""
    inputs = [model.input(talk, name) for talk, name in zip(TALKS, NAMES, strict=True)]
    assert len({len(tokens) for tokens in inputs}) == 3
    together = model.score(inputs)
    alone = torch.cat([model.score([tokens]) for tokens in inputs])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.equal(model.score(inputs[::-1]).flip(0), together)
    hidden = model.network.model(torch.tensor([inputs[0]])).last_hidden_state[0, -1]
    by_hand = hidden.detach() @ model.network.score.weight.detach()[0]
    assert together[0].item() == pytest.approx(by_hand.item(), abs=1e-5)


def test_inputs_that_do_not_end_with_the_score_token_are_refused(model: RewardModel) -> None:
    tokens = model.input(TALKS[0], "bright")
    with pytest.raises(RewardInputError, match="input 1 does not end with"):
        model.score([tokens, [*tokens, model.tokenizer.pad_token_id]])


def test_a_score_that_is_no_number_names_its_input(reward_folder: Path) -> None:
    model = RewardModel.load(reward_folder)
    odd = [TALKS[0][0], {"role": "assistant", "content": "~"}]
    inputs = [model.input(talk, "bright") for talk in (TALKS[0], odd, TALKS[2])]
    tilde = model.tokenizer.convert_tokens_to_ids("~")
    with torch.no_grad():
        model.network.get_input_embeddings().weight[tilde] = float("nan")
    with pytest.raises(RewardModelError, match=r"input 1 is nan \(1 of 3"):
        model.score(inputs)


def test_the_head_stays_in_fp32_under_autocast() -> None:
    head = ScoreHead(64, 1, bias=False)
    hidden = torch.randn(3, 64).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = head(hidden)
    assert scores.dtype == torch.float32
    assert torch.allclose(scores, hidden.float() @ head.weight.T, atol=1e-6)


def test_conditions_change_scores_and_wrong_names_are_refused(model: RewardModel) -> None:
    bright, dark, plain = model.score_conversations([TALKS[0]] * 3, ["bright", "dark", None])
    assert len({float(bright), float(dark), float(plain)}) == 3
    with pytest.raises(UnknownCondition, match="did you mean 'bright'"):
        model.score_conversations([TALKS[0]], ["brigth"])
    with pytest.raises(RewardModelError, match="1 conversations but 2 conditions"):
        model.score_conversations([TALKS[0]], ["bright", "dark"])


def test_vocabularies_without_our_tokens_get_them(
    tmp_path: Path, model_folder: Path, conditions: Conditions
) -> None:
    base = tmp_path / "base"
    shutil.copytree(model_folder, base)
    raw = json.loads((base / "tokenizer.json").read_text())
    gone = {"<|score|>", "<|pad|>"}
    raw["added_tokens"] = [t for t in raw["added_tokens"] if t["content"] not in gone]
    vocab = raw["model"]["vocab"]
    for token in gone:
        vocab[f"unused {token}"] = vocab.pop(token)
    (base / "tokenizer.json").write_text(json.dumps(raw))
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    settings.pop("added_tokens_decoder", None)
    (base / "tokenizer_config.json").write_text(json.dumps(settings))

    before = len(PreTrainedTokenizerFast.from_pretrained(base))
    model = RewardModel.load(create_reward_model(base, tmp_path / "rm", conditions, seed=1))
    assert len(model.tokenizer) == before + 2
    assert model.network.get_input_embeddings().num_embeddings == before + 2
    assert model.network.config.pad_token_id == model.tokenizer.pad_token_id != model.score_id
    assert bool(torch.isfinite(model.score_conversations(TALKS, NAMES)).all())


@pytest.mark.parametrize("token", ["<|pad|>", "</s>", "<|im_end|>"])
def test_a_score_token_with_another_duty_is_refused_before_work_starts(
    tmp_path: Path, model_folder: Path, conditions: Conditions, token: str
) -> None:
    with pytest.raises(RewardInputError, match="also the"):
        create_reward_model(model_folder, tmp_path / "rm", conditions, seed=1, score_token=token)
    assert not (tmp_path / "rm").exists()


def test_the_card(reward_folder: Path, conditions: Conditions) -> None:
    raw = json.loads((reward_folder / "reward.json").read_text())
    assert raw["score_token"] == "<|score|>"
    assert raw["calibration"] is None
    assert raw["conditions_hash"] == conditions.hash
    assert read_conditions(reward_folder) == conditions
    assert read_card(reward_folder).version == raw["version"]


def test_weights_with_a_gap_are_refused(
    reward_folder: Path, model_folder: Path, conditions: Conditions, tmp_path: Path
) -> None:
    for source, gap in ((reward_folder, "score.weight"), (model_folder, "model.norm.weight")):
        folder = tmp_path / gap
        shutil.copytree(source, folder)
        weights = load_file(folder / "model.safetensors")
        del weights[gap]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RewardModelError, match=r"the weights lack score\.weight \(1 in all\)"):
        RewardModel.load(tmp_path / "score.weight")
    with pytest.raises(RewardModelError, match=r"the weights lack model\.norm\.weight"):
        create_reward_model(tmp_path / "model.norm.weight", tmp_path / "out", conditions, seed=7)


def test_broken_folders_are_refused(
    tmp_path: Path, reward_folder: Path, model_folder: Path, conditions: Conditions
) -> None:
    with pytest.raises(RewardModelError, match="no reward model"):
        RewardModel.load(model_folder)
    with pytest.raises(RewardModelError, match="gone: no model folder"):
        create_reward_model(tmp_path / "gone", tmp_path / "out", conditions, seed=7)
    with pytest.raises(RewardModelError, match="not empty"):
        create_reward_model(model_folder, reward_folder, conditions, seed=7)
    card = json.loads((reward_folder / "reward.json").read_text())
    card["conditions"]["bright"]["system_prompt"] = "Prefer short replies."
    (tmp_path / "reward.json").write_text(json.dumps(card))
    with pytest.raises(RewardModelError, match="not those the model was trained with"):
        read_card(tmp_path)
    (tmp_path / "reward.json").write_text("{")
    with pytest.raises(RewardModelError, match="not a reward model's card"):
        read_card(tmp_path)


def test_a_remembering_model_forwards_each_text_once_and_gives_the_same_scores(
    reward_folder: Path, model: RewardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwarded: list[int] = []

    def counted(self: RewardModel, inputs: list[tuple[int, ...]]) -> torch.Tensor:
        forwarded.append(len(inputs))
        return original(self, inputs)

    original = RewardModel.forward_heads
    monkeypatch.setattr(RewardModel, "forward_heads", counted)
    remembering = RememberingModel.load(reward_folder)
    inputs = [model.input(talk, name) for talk, name in zip(TALKS, NAMES, strict=True)]
    first = remembering.score([inputs[0], inputs[0], inputs[1]])
    again = remembering.score(inputs[::-1])
    assert forwarded == [2, 1]
    assert torch.allclose(again, model.score(inputs[::-1]), atol=1e-6)
    assert torch.equal(first, again[[2, 2, 1]])
    assert remembering.score([]).shape == (0,)
