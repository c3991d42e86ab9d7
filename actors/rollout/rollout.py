"""The driver's handle of the rollout engines: load, sample, receive weights, probe."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from actors.batch import Sequences, partition
from actors.group import ActorFailed, Group, Pending
from actors.placement import Placement
from actors.rollout.engines.folders import check_folder
from actors.rollout.engines.protocol import EngineName
from actors.rollout.engines.vllm_engine import ENVIRONMENT
from actors.rollout.requests import (
    EngineFacts,
    Finished,
    Request,
    RolloutError,
    SamplingSettings,
    check_requests,
)
from actors.rollout.weights.rendezvous import Rendezvous
from actors.rollout.weights.wire import Manifest
from actors.rollout.worker import RolloutSettings, RolloutWorker
from pretrain_core.runs import warn_once

ROLE = "rollout"


class Rollout:
    """One or more replicas of an engine, all with the same weights."""

    worker_type: ClassVar[type[RolloutWorker]] = RolloutWorker

    def __init__(
        self, settings: RolloutSettings, placement: Placement | None, env: Mapping[str, str]
    ) -> None:
        self.settings = settings
        self.version = -1
        self.rendezvous: Rendezvous | None = None
        self._placement = placement
        # Each replica is a world of its own for the libraries that read these.
        self._env = {**ENVIRONMENT, **env, "RANK": "0", "WORLD_SIZE": "1"}
        self._name: EngineName = "hf" if settings.engine == "hf" else "vllm"
        self._facts: EngineFacts | None = None
        self._group = self._launch()

    @classmethod
    def start(
        cls,
        settings: RolloutSettings | None = None,
        placement: Placement | None = None,
        env: Mapping[str, str] | None = None,
    ) -> "Rollout":
        """Start the processes; the engine itself starts at the first `load`.

        Raises PlacementError or ActorFailed.
        """
        return cls(settings or RolloutSettings(), placement, env or {})

    def load(self, model: Path, version: int) -> None:
        """Sample from this Hugging Face folder from now on.

        A folder of the same architecture is read into the running engines, another one gets fresh
        processes. Raises `EngineStartError` for a folder that cannot be one, ActorFailed with the
        engine's first real error.
        """
        model = Path(model).absolute()
        check_folder(model)
        if self._facts is not None:
            if all(self._group.call("reload", model, version).result()):
                self.version = version
                return
            self.restart()
        self._facts = self._start(model, version)
        # What has run once is what starts again: a death is no reason for another engine.
        self.settings = self.settings.model_copy(update={"engine": self._name})
        self.version = version

    @property
    def facts(self) -> EngineFacts:
        """What runs; raises `RolloutError` before the first `load`."""
        if self._facts is None:
            raise RolloutError("the rollout engines have no model yet: call load first")
        return self._facts

    @property
    def engine(self) -> str:
        """Which engine runs: "vllm" or "hf"."""
        return self.facts.name

    @property
    def replicas(self) -> int:
        """Number of engines."""
        return self._group.world_size

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings,
        stop_token_ids: Sequence[int],
    ) -> Iterator[Finished]:
        """Sample one reply per request; yields each as it ends, in no particular order.

        Replicas get equal shares by prompt tokens. Raises `RequestError` at once, before any work,
        for a request that cannot be served; the iterator raises ActorFailed.
        """
        check_requests(requests, stop_token_ids, self.facts)
        shares = partition([len(request.tokens) for request in requests], self.replicas)
        if self._group.broken is not None:
            raise self._group.broken
        streams = {
            rank: self._group.actors[rank]
            .generate.options(num_returns="streaming")
            .remote([requests[index] for index in share], sampling, list(stop_token_ids))
            for rank, share in enumerate(shares)
            if share
        }
        return self._merged(streams)

    def receive(self, version: int) -> Pending[list[Manifest]]:
        """Let every engine wait for the weights of `version`; see `transfer.push`."""
        if self.rendezvous is None:
            self.rendezvous = Rendezvous(self.settings.transfer_port)
        address = self.rendezvous.open(
            1 + self.replicas,
            self.facts.dtype,
            self.settings.transfer_bucket_mib * 2**20,
            self.settings.transfer_timeout_s,
            self.settings.transfer,
            None if self.settings.transfer_folder is None else str(self.settings.transfer_folder),
        )
        return self._group.call("receive", address, version)

    def probe(self, batch: Sequences) -> list[Tensor]:
        """Raw log-probs fp32 `[tokens]` of given tokens from each replica; 0 at first tokens."""
        ends = batch.cu_seqlens.tolist()
        tokens = batch.tokens.tolist()
        sequences = [tokens[a:b] for a, b in pairwise(ends)]
        answers = self._group.call("logprobs", sequences).result()
        return [torch.tensor([x for row in rows for x in row]) for rows in answers]

    @property
    def group(self) -> Group:
        """The engines' processes."""
        return self._group

    def restart(self) -> None:
        """End the processes and start them anew; the engines start at the next `load`."""
        self.close()
        self._facts = None
        self._group = self._launch()

    def close(self) -> None:
        """End the engines."""
        self.rendezvous = None
        self._group.close()

    def _launch(self) -> Group:
        group = Group(
            ROLE,
            self.worker_type,
            self.settings,
            self._placement,
            self._env,
            arguments=(self.settings,),
        )
        group.call("prepare", self._name)
        return group

    def _start(self, model: Path, version: int) -> EngineFacts:
        try:
            return self._facts_of(self._group.call("start", self._name, model, version))
        except ActorFailed as error:
            if self.settings.engine != "auto" or self._name == "hf":
                raise
            warn_once(
                "rollout.engine",
                f"vLLM cannot run here, so replies are sampled by HF generate (slower).\n"
                f"Reason: {error.cause}\n"
                "Set rollout.engine=hf to choose this, or rollout.engine=vllm to see it fail.",
            )
        # A fresh process: vLLM has changed this one (threads, process group).
        self._name = "hf"
        self.restart()
        return self._facts_of(self._group.call("start", self._name, model, version))

    @staticmethod
    def _facts_of(pending: Pending[list[Any]]) -> EngineFacts:
        facts: EngineFacts = pending.result()[0]
        return facts

    def _merged(self, streams: dict[int, Any]) -> Iterator[Finished]:
        import ray

        rank_of = {stream: rank for rank, stream in streams.items()}
        waiting = list(rank_of)
        while waiting:
            ready, _ = ray.wait(waiting, num_returns=1, fetch_local=False)
            stream = ready[0]
            try:
                reference = next(stream)
            except StopIteration:
                waiting.remove(stream)
                continue
            answer: Pending[list[Finished]] = Pending(
                self._group, {rank_of[stream]: reference}, lambda parts: parts[0]
            )
            yield from answer.result()
