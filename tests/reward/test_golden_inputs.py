"""Training, scoring, evaluation and the actors' scorer build one and the same token input."""

import hashlib
from collections.abc import Sequence

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from actors.scorer import ScorerWorker
from pretrain_core.chat import Message
from reward.card import RewardCard
from reward.conditions import Conditions
from reward.data import Preference
from reward.evaluation import pair_scores
from reward.model import RewardModel
from reward.pairs import tokenise_pairs

SPECIAL = ["<|pad|>", "<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|score|>"]
SPECIAL += ["<|action_start|>", "<|action_end|>", "<|plugin|>", "<|interpreter|>"]
CONDITIONS = Conditions.load()
PAIR = Preference(
    (Message(role="system", content="Be."), Message(role="user", content="Hé?")),
    (Message(role="assistant", content="Ja 好."),),
    (Message(role="assistant", content="No<|score|>"),),
)
# Special tokens as in SPECIAL; every other number is 11 + the place of a byte in the alphabet.
# <|im_start|>system\nBe.<|im_end|>\n and so on: 93 is `s`, 11 + 0x73 − 0x21; 209 is the newline.
GOLDEN = [
    4, 93, 99, 93, 94, 79, 87, 209, 44, 79, 24, 5, 209,
    4, 95, 93, 79, 92, 209, 50, 138, 113, 41, 5, 209,
    4, 75, 93, 93, 83, 93, 94, 75, 88, 94, 209, 52, 75, 231, 172, 109, 132, 24, 5, 209,
    6,
]  # fmt: skip
GOLDEN_HASHES = {
    "default": "aedd5f09f693",
    "helpful": "9abe51cda923",
    "harmless": "57e1020e8ee1",
    "hhh": "9c7bf27f8084",
    "summarisation": "124488c0e1b4",
    "forum": "592f9a89f1e3",
    "code": "408de4fafcdf",
    "maths": "4900443f5182",
    "latex": "edce356d9b78",
    "creative_writing": "3f644f693576",
    "poetry": "da3cafbe0be8",
    "formatted_output": "9640d6e47ee0",
}


@pytest.fixture(scope="module")
def model() -> RewardModel:
    """A byte-level tokenizer without merges: its ids follow from the bytes alone."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate([*SPECIAL, *alphabet])}
    raw = Tokenizer(models.BPE(vocabulary, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<|pad|>", eos_token="</s>", unk_token="<unk>"
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_labels=1, pad_token_id=0,
    )  # fmt: skip
    return RewardModel(
        LlamaForSequenceClassification(config), tokenizer, RewardCard(CONDITIONS, 2048)
    )


def recorded(model: RewardModel, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    seen: list[list[int]] = []

    def score(inputs: Sequence[Sequence[int]]) -> torch.Tensor:
        seen.extend([*tokens] for tokens in inputs)
        return torch.zeros(len(inputs))

    monkeypatch.setattr(model, "score", score)
    return seen


@pytest.mark.parametrize("condition", CONDITIONS.names)
def test_four_ways_one_input(
    model: RewardModel, condition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Preference(PAIR.prompt, PAIR.chosen, PAIR.rejected, condition=condition)
    talks = [[*PAIR.prompt, *side] for side in (PAIR.chosen, PAIR.rejected)]
    expected = [model.input(talk, condition) for talk in talks]
    (pair,), left_out = tokenise_pairs(model, [record], seed=0)
    assert left_out == []
    assert [pair.chosen_ids, pair.rejected_ids] == expected

    seen = recorded(model, monkeypatch)
    pair_scores(model, [record])
    assert seen == expected
    seen.clear()
    model.score_conversations(talks, [condition] * 2)
    assert seen == expected
    seen.clear()
    worker = ScorerWorker.__new__(ScorerWorker)
    worker.model = model
    worker.score([(talk, condition) for talk in talks])
    assert seen == expected
    assert digest(expected[0]) == GOLDEN_HASHES[condition]


def test_the_frozen_ids(model: RewardModel) -> None:
    tokens = model.input([*PAIR.prompt, *PAIR.chosen], None)
    assert tokens == GOLDEN
    assert tokens[-1] == SPECIAL.index("<|score|>")


def digest(tokens: Sequence[int]) -> str:
    return hashlib.sha256(repr([*tokens]).encode()).hexdigest()[:12]
