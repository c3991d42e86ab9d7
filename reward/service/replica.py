"""One replica: a process that holds the model and scores batches in one thread of its own."""

import asyncio
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward.card import RewardModelError
from reward.service.fleet import BEAT_S, Report
from reward.service.models import ModelRef, load_checked

if TYPE_CHECKING:
    from reward.model import RewardModel

logger = logging.getLogger(__name__)


class Models:
    """The models of one process: loaded beside the one in use, never in its thread."""

    def __init__(self, threads: int, device: str) -> None:
        self._threads = threads
        self._device = device
        self._current: ModelRef | None = None
        self._loaded: dict[ModelRef, RewardModel] = {}
        self._failed: dict[ModelRef, str] = {}
        self._loading: dict[ModelRef, asyncio.Task[None]] = {}
        self._scoring = ThreadPoolExecutor(1, "score", initializer=self._set_threads)
        self._reading = ThreadPoolExecutor(1, "load", initializer=self._set_threads)

    def _set_threads(self) -> None:
        import torch

        torch.set_num_threads(self._threads)

    def report(self, replica: str) -> Report:
        """What this process holds."""
        failed = tuple(self._failed.items())
        return Report(replica, os.getpid(), tuple(self._loaded), failed, self._current)

    def follow(self, wanted: Sequence[ModelRef]) -> None:
        """Begin to load what is wanted and not there; let go of what is not wanted.

        The first of `wanted` is the one that is served.
        """
        self._current = wanted[0]
        self._loaded = {ref: self._loaded[ref] for ref in wanted if ref in self._loaded}
        self._failed = {ref: self._failed[ref] for ref in wanted if ref in self._failed}
        for ref in wanted:
            if ref not in self._loaded and ref not in self._failed:
                self._start(ref)

    async def score(self, ref: ModelRef, inputs: list[Sequence[int]]) -> list[float | None]:
        """One score for each input, None where it is no number.

        Raises RewardModelError where the model cannot be loaded.
        """
        if ref not in self._loaded:
            # A replica that was restarted meanwhile, or that missed a report.
            await self._start(ref)
        model = self._loaded.get(ref)
        if model is None:
            raise RewardModelError(self._failed.get(ref, f"{ref.version} is wanted no more"))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._scoring, _scores, model, inputs)

    def _start(self, ref: ModelRef) -> "asyncio.Task[None]":
        if ref not in self._loading:
            task = asyncio.get_running_loop().create_task(self._load(ref))
            self._loading[ref] = task
            task.add_done_callback(lambda _: self._loading.pop(ref))
        return self._loading[ref]

    async def _load(self, ref: ModelRef) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._loaded[ref] = await loop.run_in_executor(
                self._reading, load_checked, Path(ref.folder), self._device
            )
        except RewardModelError as error:
            logger.warning("model %s was refused: %s", ref.version, error)
            self._failed[ref] = str(error)


def _scores(model: "RewardModel", inputs: list[Sequence[int]]) -> list[float | None]:
    try:
        return list(model.score(inputs).tolist())
    except RewardModelError:
        # One score is no number: the others must not suffer for it.
        return [_score_alone(model, tokens) for tokens in inputs]


def _score_alone(model: "RewardModel", tokens: Sequence[int]) -> float | None:
    try:
        return float(model.score([tokens])[0])
    except RewardModelError:
        return None


class Replica:
    """The Serve deployment around `Models`: asks the ingress what to hold, scores batches."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, application: str, ingress: str, threads: int, device: str
    ) -> None:
        from ray import serve

        self._name = serve.get_replica_context().replica_id.unique_id
        self._models = Models(threads, device)
        # Over gRPC: an answer by reference is a stream, and Ray holds the event loop of the actor
        # that gives it until the asking one has taken it: a hung replica would hang the ingress.
        handle: Any = serve.get_deployment_handle(ingress, application)
        self._ingress = handle.options(_by_reference=False)
        # Ready means able to score: Serve sends no batch before this returns.
        current = (await self._beat())[0]
        report = await self._hold(current)
        for ref, reason in report.failed:
            if ref == current:
                raise RewardModelError(reason)
        await self._beat()
        self._beating = asyncio.get_running_loop().create_task(self._keep_beating())

    async def _hold(self, ref: ModelRef) -> Report:
        report = self._models.report(self._name)
        while ref not in report.holds and ref not in dict(report.failed):
            await asyncio.sleep(BEAT_S / 4)
            report = self._models.report(self._name)
        return report

    async def score(
        self, ref: ModelRef, inputs: list[Sequence[int]]
    ) -> tuple[str, list[float | None]]:
        """(this replica's name, scores) of one batch."""
        return self._name, await self._models.score(ref, inputs)

    async def _beat(self) -> tuple[ModelRef, ...]:
        wanted: tuple[ModelRef, ...] = await self._ingress.beat.remote(
            self._models.report(self._name)
        )
        self._models.follow(wanted)
        return wanted

    async def _keep_beating(self) -> None:
        from grpc import RpcError
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await self._beat()
            except (RayError, RayServeException, RpcError) as error:
                logger.warning("the ingress does not answer: %s", error)
