"""The conditional reward model: a Hugging Face sequence classifier plus `reward.json`."""

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pretrain_core.chat import IM_END, IM_START, Message
from pretrain_core.draws import torch_generator
from pretrain_core.runs.files import write_json
from pretrain_core.runs.lineage import hash_file
from reward.attention import Sequences
from reward.card import CARD, RewardCard, RewardModelError, read_card, read_conditions
from reward.conditions import DEFAULT, Conditions
from reward.heads import read_heads, write_heads
from reward.inputs import SCORE_TOKEN, RewardInputError, reward_input, score_token_id
from reward.network import install_head, make_room, quiet
from reward.packing import fill

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "CARD",
    "RewardCard",
    "RewardModel",
    "RewardModelError",
    "create_reward_model",
    "fresh_reward_model",
    "read_card",
    "read_conditions",
]

logger = logging.getLogger(__name__)

PAD_TOKEN = "<|pad|>"
HEAD_STD = 0.1  # standard deviation of the first scores: far inside the band, not all equal
SCORING_TOKENS = 8192  # tokens of one forward pass


class RewardModel:
    """A reward model with its tokenizer and card; scores are raw (the head's output), in fp32."""

    def __init__(
        self, network: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", card: RewardCard
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.card = card
        self.score_id = score_token_id(tokenizer, card.score_token)
        install_head(network)
        network.eval()

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> "RewardModel":
        """Read a reward-model folder in fp32; raises RewardModelError or RewardInputError."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        card = read_card(folder)
        with quiet():
            network, found = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True
            )
        _refuse_gaps(folder, found["missing_keys"])
        model = cls(network, AutoTokenizer.from_pretrained(folder), card)
        read_heads(network, folder, card.heads)
        network.to(device)
        pad = model.tokenizer.pad_token_id
        if network.config.num_labels != 1 or network.config.pad_token_id != pad:
            raise RewardModelError(
                f"{folder}: expected one label and pad token {pad}, the configuration has "
                f"{network.config.num_labels} and {network.config.pad_token_id}"
            )
        return model

    @property
    def version(self) -> str:
        """Name of these weights with these conditions."""
        return self.card.version

    @property
    def conditions(self) -> Conditions:
        """The conditions the model was trained with."""
        return self.card.conditions

    def input(
        self, messages: Sequence[Mapping[str, Any] | Message], condition: str | None
    ) -> list[int]:
        """Input tokens of a conversation that ends with a reply; None means `default`.

        A model trained without conditions reads every conversation under `default`.
        """
        name = condition or DEFAULT
        self.conditions.get(name)
        return reward_input(
            self.tokenizer,
            self.conditions,
            messages,
            name if self.card.use_condition else DEFAULT,
            self.card.max_length,
            self.card.score_token,
        )

    def score_conversations(
        self,
        conversations: Sequence[Sequence[Mapping[str, Any] | Message]],
        conditions: Sequence[str | None],
    ) -> Tensor:
        """Scores [n] of conversations, each under its one condition."""
        if len(conversations) != len(conditions):
            raise RewardModelError(
                f"{len(conversations)} conversations but {len(conditions)} conditions"
            )
        return self.score(
            [self.input(c, name) for c, name in zip(conversations, conditions, strict=True)]
        )

    def score(self, inputs: Sequence[Sequence[int]]) -> Tensor:
        """Scores [n] of inputs made by `input`, on the CPU, in the given order.

        Batches are a function of the inputs alone. Raises RewardInputError for an input that does
        not end with the score token, RewardModelError naming the first NaN's index.
        """
        return self.score_heads(inputs)[:, 0]

    def score_with_spread(self, inputs: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Scores [n], and the standard deviation [n] over all heads: how unsure the model is.

        Raises RewardModelError for a model without further heads, else as `score`.
        """
        if self.card.heads < 2:
            raise RewardModelError(
                f"model {self.version} has one head, which has no spread: train it with heads: 5"
            )
        scores = self.score_heads(inputs)
        return scores[:, 0], scores.std(dim=1)

    @torch.inference_mode()
    def score_heads(self, inputs: Sequence[Sequence[int]]) -> Tensor:
        """Scores [n, heads] as `score`, the score's head first."""
        self.network.eval()
        order = sorted(range(len(inputs)), key=lambda index: len(inputs[index]))
        scores = torch.empty(len(inputs), self.card.heads, dtype=torch.float32)
        lengths = [len(inputs[index]) for index in order]
        for rows in fill(order, lengths, SCORING_TOKENS):
            scores[rows] = self.forward_heads([inputs[row] for row in rows]).cpu()
        bad = (~torch.isfinite(scores)).any(dim=1).nonzero()
        if len(bad):
            raise RewardModelError(
                f"the score of input {int(bad[0])} is {float(scores[bad[0, 0], 0])} "
                f"({len(bad)} of {len(inputs)} are no numbers), model {self.version}"
            )
        return scores

    def forward(self, inputs: Sequence[Sequence[int]], network: nn.Module | None = None) -> Tensor:
        """Scores [n] with gradients, in one packed pass (`network`: the same, wrapped by DDP)."""
        return self.forward_heads(inputs, network)[:, 0]

    def forward_heads(
        self, inputs: Sequence[Sequence[int]], network: nn.Module | None = None
    ) -> Tensor:
        """Scores [n, heads] as `forward`, the score's head first.

        They are read at each input's last token, which is checked to be the score token.
        """
        for index, tokens in enumerate(inputs):
            if not tokens or tokens[-1] != self.score_id:
                raise RewardInputError(
                    f"input {index} does not end with {self.card.score_token}: build it with "
                    "reward_input"
                )
        device = self.network.device
        packed = torch.tensor([token for tokens in inputs for token in tokens], device=device)
        sequences = Sequences.of([len(tokens) for tokens in inputs], device)
        scores: Tensor = (network or self.network)(input_ids=packed, sequences=sequences)
        return scores.float()

    def save(self, folder: Path, **changes: Any) -> Path:
        """Write the folder (the card last) with `changes` to the card; the version is derived.

        Refuses a folder that exists and is not empty.
        """
        if folder.exists() and any(folder.iterdir()):
            raise RewardModelError(f"{folder} is not empty: choose another place or remove it")
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            write_heads(self.network, folder)
        self.tokenizer.save_pretrained(folder)
        # A calibration belongs to the weights that it was fitted on.
        card = replace(self.card, **{"calibration": None, **changes})
        self.card = replace(card, version=derived_version(folder, card))
        write_json(folder / CARD, self.card.as_dict())
        return folder


def create_reward_model(
    base: Path,
    out: Path,
    conditions: Conditions,
    seed: int,
    max_length: int = 8192,
    score_token: str = SCORE_TOKEN,
) -> Path:
    """A reward model with SFT weights and a fresh head (report §4.2.1), saved to `out`."""
    return fresh_reward_model(base, conditions, seed, max_length, score_token).save(out)


def fresh_reward_model(
    base: Path,
    conditions: Conditions,
    seed: int,
    max_length: int = 8192,
    score_token: str = SCORE_TOKEN,
) -> RewardModel:
    """SFT weights in fp32, random head; adds the score token where the vocabulary lacks it."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    if not (base / "config.json").is_file():
        raise RewardModelError(f"{base}: no model folder (no config.json in it)")
    tokenizer = AutoTokenizer.from_pretrained(base)
    _add_tokens(tokenizer, (IM_START, IM_END, score_token))
    if tokenizer.pad_token_id is None:
        _add_tokens(tokenizer, (PAD_TOKEN,))
        tokenizer.pad_token = PAD_TOKEN
    score_id = score_token_id(tokenizer, score_token)
    with quiet():  # that the language head is dropped and `score` is new is what we want
        network, found = AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=1, dtype=torch.float32, output_loading_info=True
        )
    _refuse_gaps(base, set(found["missing_keys"]) - {"score.weight"})
    limit = getattr(network.config, "max_position_embeddings", max_length)
    card = RewardCard(conditions, min(max_length, limit), score_token)
    draw = torch_generator(seed, "reward/head")
    make_room(network, len(tokenizer), draw)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(network.config, name, getattr(tokenizer, name))
    model = RewardModel(network, tokenizer, card)
    with torch.no_grad():
        network.score.weight.normal_(0.0, first_std(network), generator=draw)
    logger.info("fresh reward model from %s, score token %d", base, score_id)
    return model


def _refuse_gaps(folder: Path, missing: Collection[str]) -> None:
    """transformers fills what a checkpoint lacks with random weights."""
    if missing:
        raise RewardModelError(
            f"{folder}: the weights lack {', '.join(sorted(missing)[:3])} ({len(missing)} in all): "
            "the checkpoint is incomplete or of another architecture; export it again"
        )


def first_std(network: "PreTrainedModel") -> float:
    """Spread of a fresh head's weights; normed hidden states have length √hidden."""
    return float(HEAD_STD / network.score.in_features**0.5)


def _add_tokens(tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[str]) -> None:
    missing = [token for token in tokens if token not in tokenizer.get_vocab()]
    if missing:
        tokenizer.add_special_tokens({"additional_special_tokens": missing}, False)


def derived_version(folder: Path, card: RewardCard) -> str:
    """Name derived from weights, conditions and how they are used."""
    parts = [hash_file(file) for file in sorted(folder.glob("*.safetensors"))]
    parts += [card.conditions.hash, card.score_token, str(card.use_condition), str(card.max_length)]
    return "rm-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
