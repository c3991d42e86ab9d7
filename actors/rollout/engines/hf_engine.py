"""The fall-back engine: transformers' forward with a key-value cache and our own sampling loop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.rollout.engines.folders import same_model
from actors.rollout.engines.protocol import Reply
from actors.rollout.engines.sampling import draw
from actors.rollout.engines.stop_strings import StopStrings, stop_strings
from actors.rollout.requests import (
    EngineFacts,
    EngineStartError,
    Request,
    RolloutError,
    SamplingSettings,
    room_for,
)
from actors.rollout.weights.wire import Manifest, TransferAddress, WeightPushError, WeightReceiver
from pretrain_core.model.logprobs import logprobs_of


@dataclass
class _Row:
    """A reply under way."""

    request: Request
    room: int
    generator: torch.Generator
    tokens: list[int]
    behaviour: list[float]
    raw: list[float]

    @property
    def spoken(self) -> list[int]:
        """The whole reply, with what was said of it before."""
        return [*self.request.said, *self.tokens]

    def reply(self, stopped: bool) -> Reply:
        return Reply(
            self.request.id,
            self.tokens,
            self.behaviour,
            self.raw,
            "stop" if stopped else "length",
        )


class HFEngine:
    """Samples with a transformers model, a batch of at most `max_num_seqs` rows at a time."""

    def __init__(self, folder: Path, dtype: str, max_model_len: int, max_num_seqs: int) -> None:
        """Raises `EngineStartError` when the folder cannot be loaded or the context is too long."""
        from transformers import AutoModelForCausalLM

        self.folder = folder
        self.max_num_seqs = max_num_seqs
        try:
            self.model: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype)
            ).eval()
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise EngineStartError(f"HF cannot load {folder}: {error}") from error
        positions = getattr(self.model.config, "max_position_embeddings", max_model_len)
        if max_model_len > positions:
            raise EngineStartError(
                f"rollout.max_model_len {max_model_len} exceeds the {positions} positions of "
                f"{folder}"
            )
        self.facts = EngineFacts("hf", dtype, self.model.config.vocab_size, max_model_len)
        self._receiver: WeightReceiver | None = None

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings,
        stop_token_ids: Sequence[int],
    ) -> Iterator[list[Reply]]:
        """Yield replies as they end, batch after batch in the order of the requests."""
        for start in range(0, len(requests), self.max_num_seqs):
            batch = requests[start : start + self.max_num_seqs]
            yield from self._batch(batch, sampling, set(stop_token_ids))

    def advance(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings,
        stop_token_ids: Sequence[int],
        seconds: float,
    ) -> list[Reply]:
        """Refused: a batch is begun and ended as a whole."""
        raise RolloutError("the HF engine takes no requests while others are under way: use vLLM")

    def interrupt(self) -> list[Reply]:
        """Nothing is ever under way between two calls."""
        return []

    @torch.inference_mode()
    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Raw log-probs of given tokens, one forward without a cache per sequence."""
        results = []
        for sequence in sequences:
            tokens = torch.tensor(sequence)
            logits = self.model(input_ids=tokens[None], use_cache=False).logits[0, :-1]
            results.append([0.0, *logprobs_of(logits, tokens[1:]).tolist()])
        return results

    def fits(self, folder: Path) -> bool:
        """Whether the folder holds a model of the same architecture and size."""
        return same_model(self.folder, folder)

    def reload(self, folder: Path) -> None:
        """Take the weights of a folder that `fits`."""
        fresh = type(self.model).from_pretrained(folder, dtype=self.model.dtype)
        self.model.load_state_dict(fresh.state_dict())
        self.folder = folder

    def receive(self, address: TransferAddress, rank: int) -> Manifest:
        """Copy weights off the wire into the model; raises `WeightPushError`."""
        if self._receiver is None or self._receiver.address != address:
            self._receiver = WeightReceiver(address, rank)
        receiver, self._receiver = self._receiver, None
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        missing = {name for name, _ in self.model.named_parameters()}
        for bucket in receiver.buckets():
            for name, tensor in bucket:
                _copy(parameters, name, tensor)
                missing.discard(name)
        if missing:
            raise WeightPushError(f"nothing came for {sorted(missing)[:5]} of the engine's model")
        # Kept only after success: a failed push closes the connection and so frees the sender.
        self._receiver = receiver
        assert receiver.manifest is not None
        return receiver.manifest

    @torch.inference_mode()
    def _batch(
        self, requests: Sequence[Request], sampling: SamplingSettings, stop: set[int]
    ) -> Iterator[list[Reply]]:
        """Left-padded decoding; rows that have ended leave batch and cache at once."""
        limit = self.facts.max_model_len
        rows = [
            _Row(r, room_for(r, sampling, limit), _generator(r.seed), [], [], []) for r in requests
        ]
        inputs, mask = _left_padded([request.context for request in requests])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = None
        texts = stop_strings(self.folder, sampling.stop)
        stop_ids = torch.tensor(sorted(stop), dtype=torch.int64)
        while rows:
            output = self.model(
                input_ids=inputs,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache, logits = output.past_key_values, output.logits[:, -1]
            drawn = draw(
                logits,
                sampling.temperature,
                sampling.top_p,
                _too_early(rows, sampling.min_new_tokens, stop_ids, logits.shape[-1]),
                [row.generator for row in rows],
            )
            ended = _extend(rows, drawn, stop, texts, sampling.min_new_tokens)
            keep = [index for index in range(len(rows)) if index not in ended]
            if ended:
                yield [rows[index].reply(stopped) for index, stopped in ended.items()]
                rows = [rows[index] for index in keep]
                if rows:
                    cache.batch_select_indices(torch.tensor(keep))
            inputs = drawn[0][keep, None]
            mask = torch.nn.functional.pad(mask[keep], (0, 1), value=1)
            positions = positions[keep, -1:] + 1


def _extend(
    rows: list[_Row],
    drawn: tuple[Tensor, Tensor, Tensor],
    stop: set[int],
    texts: StopStrings | None,
    least: int,
) -> dict[int, bool]:
    """Add the drawn tokens; the rows that end with them, and whether by themselves."""
    ended = {}
    tokens, behaviour, raw = (part.tolist() for part in drawn)
    for index, row in enumerate(rows):
        row.tokens.append(tokens[index])
        row.behaviour.append(behaviour[index])
        row.raw.append(raw[index])
        stopped = tokens[index] in stop
        if texts is not None and len(row.spoken) >= least:
            stopped = stopped or texts.ended(row.spoken)
        if stopped or len(row.tokens) == row.room:
            ended[index] = stopped
    return ended


def _too_early(
    rows: list[_Row], min_new_tokens: int, stop_ids: Tensor, vocab_size: int
) -> Tensor | None:
    """Mask of stop tokens in the rows that are shorter than the minimum."""
    early = torch.tensor([len(row.spoken) < min_new_tokens for row in rows])
    if not early.any():
        return None
    mask = torch.zeros(len(rows), vocab_size, dtype=torch.bool)
    mask[:, stop_ids] = True
    return mask & early[:, None]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(tokens, mask), both `[rows, longest]`; only here is anything padded."""
    width = max(len(prompt) for prompt in prompts)
    tokens = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros(len(prompts), width, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return tokens, mask


@torch.no_grad()
def _copy(parameters: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    if name not in parameters:
        raise WeightPushError(f"the engine has no parameter {name!r}: another architecture?")
    if parameters[name].shape != tensor.shape:
        raise WeightPushError(
            f"{name} arrived as {list(tensor.shape)}, the engine has {list(parameters[name].shape)}"
        )
    parameters[name].copy_(tensor)
