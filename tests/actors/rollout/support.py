"""Tiny models, requests, and a stand-in for the policy that only has weights."""

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from actors.batch import Sequences
from actors.forward import LogprobResult
from actors.group import Group, Pending
from actors.placement import RoleResources
from actors.rollout import Rollout
from actors.rollout.requests import Finished, Request, SamplingSettings
from actors.rollout.stream import RolloutStream
from actors.rollout.weights.wire import Manifest, TransferAddress, WeightSender
from actors.rollout.worker import RolloutWorker
from actors.worker import Worker
from pretrain_core.draws import rng, seed_of
from pretrain_core.model.logprobs import logprobs_of
from tests.support import randomise

VOCABULARY, STOP, CONTEXT = 512, 5, 192
GREEDY = SamplingSettings(temperature=0, max_new_tokens=12, min_new_tokens=2)
WARM = SamplingSettings(temperature=0.7, top_p=0.8, max_new_tokens=24, min_new_tokens=3)


def make_folder(folder: Path, seed: int, tied: bool = False, heads: int = 2) -> Path:
    """A Llama of hidden 64; two heads are 32 wide, the narrowest that vLLM takes on CPU."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    randomise(model, seed=seed)
    model.save_pretrained(folder)
    return folder


def requests(count: int) -> list[Request]:
    """Short prompts; that of r1 fills a whole block of vLLM's prefix cache (128 tokens)."""
    draws = rng(0, "test requests")
    return [
        Request(
            f"r{index}",
            draws.integers(11, VOCABULARY, 150 if index == 1 else 2 + index).tolist(),
            seed_of(1, "rollout", 0, index),
        )
        for index in range(count)
    ]


def reference_logprobs(folder: Path, batch: Sequences) -> Tensor:
    """Log-probs `[tokens]` of all tokens but the first, by a fresh transformers model."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = torch.zeros(len(batch.tokens))
    ends = batch.cu_seqlens.tolist()
    with torch.inference_mode():
        for start, end in pairwise(ends):
            tokens = batch.tokens[start:end]
            logits = model(input_ids=tokens[None]).logits[0, :-1]
            found[start + 1 : end] = logprobs_of(logits, tokens[1:])
    return found


class Holder(Worker):
    """A policy worker reduced to what the push needs: weights of a folder."""

    sender: WeightSender | None = None
    folder: Path
    weights: dict[str, Tensor]

    def load(self, folder: Path, drop: str | None, widen: str | None, fail: bool) -> None:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.folder = folder
        self.weights = {
            name: torch.cat([p.detach()] * 2) if name == widen else p.detach()
            for name, p in model.named_parameters()
            if name != drop
        }
        self.fail = fail

    def send_weights(self, address: TransferAddress) -> Manifest:
        if self.sender is None or self.sender.address != address:
            self.sender = WeightSender(address)
        return self.sender.send(self._gathered())

    def _gathered(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.weights.items()
        if self.fail:
            raise MemoryError("no room to gather the rest")

    def logprobs(self, batch: Sequences) -> LogprobResult:
        found = reference_logprobs(self.folder, batch)
        return LogprobResult(found, torch.zeros_like(found))


class HolderPolicy:
    """The driver's side of `Holder`: a `Source` of weights."""

    products = torch.float32

    def __init__(self) -> None:
        self.group = Group("policy", Holder, RoleResources(threads=1))

    def hold(
        self,
        folder: Path,
        drop: str | None = None,
        widen: str | None = None,
        fail: bool = False,
    ) -> None:
        self.group.call("load", folder, drop, widen, fail).result()

    def send_weights(self, address: TransferAddress) -> Pending[Manifest]:
        return self.group.only(0, "send_weights", address)

    def logprobs(self, batch: Sequences) -> Pending[LogprobResult]:
        return self.group.only(0, "logprobs", batch)

    def close(self) -> None:
        self.group.close()


class ForgetfulWorker(RolloutWorker):
    """Can be made to leave tied heads as they were, as vLLM's own engines would."""

    def forget_heads(self, forget: bool) -> None:
        from actors.rollout.weights import vllm_transfer

        repack = vllm_transfer.repack_heads
        vllm_transfer.repack_heads = (lambda model: None) if forget else self._kept
        self._kept = repack


class ForgetfulRollout(Rollout):
    worker_type = ForgetfulWorker

    def forget_heads(self, forget: bool) -> None:
        self._group.call("forget_heads", forget).result()


def text_inside(replies: dict[str, list[int]], tokenizer: PreTrainedTokenizerFast) -> str:
    """A text of a few letters that some reply says after its fourth token, over two tokens."""
    for tokens in replies.values():
        pieces = [tokenizer.decode([token]) for token in tokens]
        for first, second in pairwise(pieces[4:]):
            text = first[-1:] + second[:2]
            if len(text) == 3 and text.isascii() and text.isprintable():
                return text
    raise AssertionError("no reply says two readable tokens in a row")


def cut_after(tokens: list[int], text: str, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The reply up to the token that completes the text, by decoding every beginning of it."""
    least = GREEDY.min_new_tokens
    for end in range(least, len(tokens) + 1):
        if text in tokenizer.decode(tokens[:end], clean_up_tokenization_spaces=False):
            return tokens[:end]
    return tokens


class HaltingStream(RolloutStream):
    """Waits after the first reply until it is paused, so that the others are cut for sure."""

    halted = False

    def _end(self, rank: int, ended: Sequence[Finished]) -> None:
        super()._end(rank, ended)
        if ended and not self.halted:
            self.halted = self._stopping = True


class ScriptedReplica(Worker):
    """Says its rank four times in each reply, a token of every reply at a time."""

    version = 0

    def __init__(self, *place: Any) -> None:
        super().__init__(*place)
        self.under_way: dict[str, tuple[Request, int]] = {}
        self.left = 0
        self.asked: list[Request] = []

    def allow(self, tokens: int) -> None:
        """Say so many more of each reply, then wait."""
        self.left = tokens

    def allowed(self) -> int:
        return self.left

    def load(self, version: int) -> None:
        self.version = version

    def told(self) -> list[Request]:
        return self.asked

    def advance(self, requests: Sequence[Request], *_: Any) -> list[Finished]:
        self.asked += requests
        self.under_way |= {request.id: (request, 0) for request in requests}
        if not self.left:
            time.sleep(0.005)
            return []
        self.left -= 1
        self.under_way = {name: (r, n + 1) for name, (r, n) in self.under_way.items()}
        ended = [self._said(r, n, "stop") for r, n in self.under_way.values() if n == 4]
        for reply in ended:
            del self.under_way[reply.id]
        return ended

    def interrupt(self) -> list[Finished]:
        cut = [self._said(r, n, "abort") for r, n in self.under_way.values()]
        self.under_way.clear()
        return cut

    def _said(self, request: Request, count: int, reason: Any) -> Finished:
        tokens = [self.place.rank] * count
        return Finished(request.id, tokens, [-1.0] * count, None, reason, [self.version] * count)
