"""vLLM in this process, behind the engine protocol."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from actors.rollout.engines.folders import same_model
from actors.rollout.engines.protocol import Reply
from actors.rollout.engines.stop_strings import StopStrings, stop_strings
from actors.rollout.requests import (
    EngineFacts,
    EngineStartError,
    Request,
    SamplingSettings,
    room_for,
)
from actors.rollout.weights.wire import Manifest, TransferAddress, WeightPushError
from actors.trajectories import FinishReason

# One process, eager, and the model runner whose sampler we know (the other needs Triton).
# Passive waiting: OpenMP threads that spin while a neighbour holds their core cost a factor of 20.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
    "OMP_WAIT_POLICY": "PASSIVE",
}
CPU_BATCH_TOKENS = 4096
"""Prompt tokens that a step of a CPU engine takes, unless the context is longer."""
# All that vLLM was seen to raise at a bad model, argument, build or machine.
START_ERRORS = (
    ImportError,
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    AssertionError,
)


@dataclass
class _UnderWay:
    """A reply that vLLM samples."""

    request: Request
    texts: StopStrings | None
    least: int
    output: Any = None
    """vLLM's newest."""

    def complete(self) -> bool:
        """Whether a text has ended it."""
        tokens = list(self.output.token_ids)
        return (
            self.texts is not None
            and len(tokens) >= self.least
            and self.texts.ended([*self.request.said, *tokens])
        )


class VLLMEngine:
    """Samples with vLLM's in-process engine; the process must have started with `ENVIRONMENT`."""

    def __init__(
        self, folder: Path, dtype: str, max_model_len: int, max_num_seqs: int, kv_cache_bytes: int
    ) -> None:
        """Raises `EngineStartError` with the first real error."""
        self.folder = folder
        self._calls = 0
        self._under_way: dict[str, _UnderWay] = {}
        self._address: TransferAddress | None = None
        try:
            self._llm = _start(folder, dtype, max_model_len, max_num_seqs, kv_cache_bytes)
            # An end token is one of `stop_token_ids` or none: the folder's own do not count.
            self._llm.llm_engine.input_processor.generation_config_fields = {}
            self._has_raw = all(self._on_worker(_install_sampler))
            # Some shapes are refused only by the first forward (attention of 16-wide heads on CPU).
            self.logprobs([[0, 0]])
        except START_ERRORS as error:
            raise EngineStartError(f"vLLM cannot start with {folder}: {_first(error)}") from error
        vocab_size = self._llm.model_config.get_vocab_size()
        self.facts = EngineFacts("vllm", dtype, vocab_size, max_model_len, continuous=True)

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings,
        stop_token_ids: Sequence[int],
    ) -> Iterator[list[Reply]]:
        """Yield replies step by step as they end; closing the iterator aborts the rest."""
        # Only where texts are looked for must every token come as it is sampled.
        begun = self._begin(requests, sampling, stop_token_ids, every_token=bool(sampling.stop))
        try:
            while begun:
                if ended := self._step(begun):
                    yield ended
        finally:
            self._abort(begun)

    def advance(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings,
        stop_token_ids: Sequence[int],
        seconds: float,
    ) -> list[Reply]:
        """Take requests in and go on with all that are under way, until some end or time is up."""
        until = monotonic() + seconds
        # Every token, so that nothing is lost where they are interrupted.
        begun = self._begin(requests, sampling, stop_token_ids, every_token=True)
        self._under_way.update(begun)
        while self._under_way:
            if (ended := self._step(self._under_way)) or monotonic() >= until:
                return ended
        return []

    def interrupt(self) -> list[Reply]:
        """Drop all that `advance` has under way; what was sampled of each, reason "abort"."""
        replies = [self._reply(one, "abort") for one in self._under_way.values()]
        self._abort(self._under_way)
        return replies

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Raw log-probs of given tokens; vLLM computes prompts afresh when these are asked."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        names = [self._add(sequence, params.clone()) for sequence in sequences]
        found: dict[str, list[float]] = {}
        while len(found) < len(names):
            for output in self._llm.llm_engine.step():
                if output.finished and output.request_id in names:
                    found[output.request_id] = [0.0, *output.prompt_logprobs.logprobs]
        return [found[name] for name in names]

    def fits(self, folder: Path) -> bool:
        """Whether the folder holds a model of the same architecture and size."""
        return same_model(self.folder, folder)

    def reload(self, folder: Path) -> None:
        """Take the weights of a folder that `fits`."""
        self._update({"folder": str(folder)})
        self.folder = folder

    def receive(self, address: TransferAddress, rank: int) -> Manifest:
        """Take weights by vLLM's native transfer flow; raises `WeightPushError`."""
        if address != self._address:
            self._llm.init_weight_transfer_engine({"init_info": {"address": address, "rank": rank}})
            self._address = address
        try:
            self._update({})
        except WeightPushError:
            # Closing the connection frees a sender that still waits.
            self._on_worker(_disconnect)
            self._address = None
            raise
        manifest: Manifest = self._on_worker(_manifest)[0]
        return manifest

    def _update(self, update_info: dict[str, Any]) -> None:
        self._llm.start_weight_update()
        self._llm.update_weights({"update_info": update_info})
        self._llm.finish_weight_update()
        # Cached keys and values belong to the old weights.
        self._llm.reset_prefix_cache()

    def _add(self, tokens: Sequence[int], params: Any) -> str:
        self._calls += 1
        name = str(self._calls)
        self._llm.llm_engine.add_request(name, {"prompt_token_ids": list(tokens)}, params)
        return name

    def _begin(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings,
        stop_token_ids: Sequence[int],
        *,
        every_token: bool,
    ) -> dict[str, _UnderWay]:
        """Hand requests to vLLM; by the names that it knows them by."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        texts = stop_strings(self.folder, sampling.stop)
        kind = RequestOutputKind.CUMULATIVE if every_token else RequestOutputKind.FINAL_ONLY
        begun = {}
        for request in requests:
            room = room_for(request, sampling, self.facts.max_model_len)
            least = max(sampling.min_new_tokens - len(request.said), 0)
            params = SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=room,
                min_tokens=min(least, room),
                stop_token_ids=list(stop_token_ids),
                ignore_eos=True,
                seed=request.seed,
                logprobs=1,
                flat_logprobs=True,
                detokenize=False,
                output_kind=kind,
            )
            begun[self._add(request.context, params)] = _UnderWay(request, texts, least)
        return begun

    def _step(self, under_way: dict[str, _UnderWay]) -> list[Reply]:
        """One step of vLLM; the replies that end with it leave `under_way`."""
        ended, cut = [], []
        for output in self._llm.llm_engine.step():
            one = under_way.get(output.request_id)
            if one is None:
                continue
            one.output = output.outputs[0]
            if output.finished or one.complete():
                ended.append(self._reply(one, one.output.finish_reason or "stop"))
                del under_way[output.request_id]
                if not output.finished:
                    cut.append(output.request_id)
        if cut:
            self._llm.llm_engine.abort_request(cut)
        return ended

    def _abort(self, under_way: dict[str, _UnderWay]) -> None:
        if under_way:
            self._llm.llm_engine.abort_request(sorted(under_way))
            under_way.clear()

    def _reply(self, one: _UnderWay, reason: FinishReason) -> Reply:
        if one.output is None:
            return Reply(one.request.id, [], [], [] if self._has_raw else None, reason)
        logprobs = one.output.logprobs.logprobs
        return Reply(
            one.request.id,
            list(one.output.token_ids),
            logprobs[0::2],
            logprobs[1::2] if self._has_raw else None,
            reason,
        )

    def _on_worker(self, function: Any) -> list[Any]:
        results: list[Any] = self._llm.collective_rpc(function)
        return results


def _start(
    folder: Path, dtype: str, max_model_len: int, max_num_seqs: int, kv_cache_bytes: int
) -> Any:
    os.environ.update({k: os.environ.get(k, v) for k, v in ENVIRONMENT.items()})
    from vllm import LLM
    from vllm.config import WeightTransferConfig
    from vllm.platforms import current_platform

    from actors.rollout.weights.vllm_transfer import BACKEND, register

    register()
    # Where a prompt's prefill is cut, vLLM winds its seeded generator back, which those of a CPU
    # cannot do: there prompts are prefilled whole.
    whole = {
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(max_model_len, CPU_BATCH_TOKENS),
    }
    return LLM(
        model=str(folder),
        skip_tokenizer_init=True,
        generation_config="vllm",
        dtype=dtype,
        enforce_eager=True,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        kv_cache_memory_bytes=kv_cache_bytes,
        enable_prefix_caching=True,
        logprobs_mode="processed_logprobs",
        weight_transfer_config=WeightTransferConfig(backend=BACKEND),
        disable_log_stats=True,
        seed=0,
        **(whole if current_platform.is_cpu() else {}),
    )


def _install_sampler(worker: Any) -> bool:
    from actors.rollout.engines.vllm_sampler import install

    return install(worker)


def _manifest(worker: Any) -> Manifest | None:
    manifest: Manifest | None = worker.weight_transfer_engine.manifest
    return manifest


def _disconnect(worker: Any) -> None:
    worker.weight_transfer_engine.shutdown()


def _first(error: BaseException) -> str:
    """The root of a chain of errors: vLLM wraps the cause several times."""
    while error.__cause__ is not None or (error.__context__ and not error.__suppress_context__):
        error = error.__cause__ or error.__context__ or error
    return f"{type(error).__name__}: {error}"
