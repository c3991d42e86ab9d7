"""The Ray actor of one rollout engine."""

import importlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from actors.placement import RoleResources
from actors.rollout.engines.protocol import Engine, EngineName, Reply
from actors.rollout.requests import (
    EngineFacts,
    Finished,
    Request,
    SamplingSettings,
    StaleWeightsError,
)
from actors.rollout.weights.carriers import Transfer
from actors.rollout.weights.wire import Manifest, TransferAddress
from actors.worker import Rank, Worker

logger = logging.getLogger(__name__)


class RolloutSettings(RoleResources):
    """The rollout engines; `world_size` is the number of replicas."""

    engine: Literal["auto", "vllm", "hf"] = Field(
        default="auto",
        description="auto: vLLM, or HF generate with a warning where vLLM cannot start",
    )
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_model_len: int = Field(
        default=1024, gt=1, description="context: prompt and reply, in tokens"
    )
    max_num_seqs: int = Field(
        default=64, gt=0, description="replies under way at once in each replica"
    )
    kv_cache_bytes: int = Field(
        default=2**28, gt=0, description="key-value cache of a vLLM replica"
    )
    transfer: Transfer = Field(
        default="gloo",
        description="of weights: gloo between any machines; shared_memory on one; disk, through"
        " transfer_folder",
    )
    transfer_folder: Path | None = Field(
        default=None, description="that policy and engines see, for transfer disk"
    )
    transfer_port: int = Field(
        default=0,
        ge=0,
        lt=2**16,
        description="of the weight push: this or one of the next 15; 0: any free",
    )
    transfer_bucket_mib: int = Field(default=64, gt=0, description="weights sent at once, MiB")
    transfer_timeout_s: float = Field(
        default=120.0, gt=0, description="longest silence during a push"
    )

    @model_validator(mode="after")
    def _a_folder_for_the_disk(self) -> "RolloutSettings":
        if (self.transfer == "disk") != (self.transfer_folder is not None):
            raise ValueError("transfer disk and transfer_folder go together: give both or neither")
        return self


def build_engine(name: EngineName, folder: Path, settings: RolloutSettings) -> Engine:
    """An engine in this process with the weights of a folder; raises `EngineStartError`."""
    s = settings
    if name == "vllm":
        from actors.rollout.engines.vllm_engine import VLLMEngine

        return VLLMEngine(folder, s.dtype, s.max_model_len, s.max_num_seqs, s.kv_cache_bytes)
    from actors.rollout.engines.hf_engine import HFEngine

    return HFEngine(folder, s.dtype, s.max_model_len, s.max_num_seqs)


class RolloutWorker(Worker):
    """One replica: an engine, the version of its weights, and whether they are whole."""

    def __init__(self, place: Rank, settings: RolloutSettings) -> None:
        super().__init__(place)
        self.settings = settings
        self.engine: Engine | None = None
        self.version = -1
        self._stale: str | None = None

    def join(self, meeting: tuple[str, int], timeout_s: float) -> None:
        """Replicas never talk to each other, and vLLM wants a process group of its own."""

    def prepare(self, engine: EngineName) -> None:
        """Load the engine's library, so that this overlaps with the start of other roles."""
        try:
            importlib.import_module("vllm" if engine == "vllm" else "transformers")
        except ImportError as error:
            logger.info("%s cannot be loaded, `start` will say why: %s", engine, error)

    def start(self, engine: EngineName, folder: Path, version: int) -> EngineFacts:
        """Start an engine with the weights of a folder; raises `EngineStartError`."""
        self.engine = build_engine(engine, folder, self.settings)
        self.version = version
        return self.engine.facts

    def reload(self, folder: Path, version: int) -> bool:
        """Take the weights of a folder; False when only a fresh process can (another model)."""
        engine = self._engine()
        if self._stale is not None or not engine.fits(folder):
            return False
        self._stale = f"loading {folder} failed half-way"
        engine.reload(folder)
        self.version, self._stale = version, None
        return True

    def receive(self, address: TransferAddress, version: int) -> Manifest:
        """Take the policy's weights off the wire; raises `WeightPushError`."""
        engine = self._usable()
        self._stale = f"the push of version {version} failed half-way"
        manifest = engine.receive(address, self.place.rank + 1)
        self.version, self._stale = version, None
        return manifest

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings,
        stop_token_ids: Sequence[int],
    ) -> Iterator[list[Finished]]:
        """Yield replies as they end; raises `StaleWeightsError` after a failed push."""
        for replies in self._usable().generate(requests, sampling, stop_token_ids):
            yield self._finished(replies)

    def advance(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings,
        stop_token_ids: Sequence[int],
        seconds: float,
    ) -> list[Finished]:
        """Take requests in, go on with all that are under way; see `Engine.advance`."""
        return self._finished(self._usable().advance(requests, sampling, stop_token_ids, seconds))

    def interrupt(self) -> list[Finished]:
        """Drop all that is under way; what was sampled of each."""
        return self._finished(self._engine().interrupt())

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Raw log-probs of given tokens under the present weights."""
        return self._usable().logprobs(sequences)

    def _finished(self, replies: Sequence[Reply]) -> list[Finished]:
        return [
            Finished(
                reply.id,
                reply.tokens,
                reply.behaviour_logprobs,
                reply.raw_logprobs,
                reply.finish_reason,
                [self.version] * len(reply.tokens),
            )
            for reply in replies
        ]

    def _engine(self) -> Engine:
        if self.engine is None:
            raise StaleWeightsError(f"{self!r} has no weights yet: call Rollout.load first")
        return self.engine

    def _usable(self) -> Engine:
        if self._stale is not None:
            raise StaleWeightsError(f"{self!r}: {self._stale}; load a model folder before going on")
        return self._engine()
