"""The service on Ray Serve: one ingress, a deployment of model replicas, start and stop."""

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain_core.errors import RunFailed
from reward.service.access import Access
from reward.service.batching import ForwardFailed
from reward.service.fleet import Report
from reward.service.models import ModelRef, input_builder, reference
from reward.service.replica import Replica
from reward.service.settings import ServiceSettings

APPLICATION, INGRESS, REPLICA = "reward", "Ingress", "Replica"
LOGICAL_CPUS = 16
OBJECT_STORE_BYTES = 256 * 2**20


class Ingress:
    """The Serve deployment around `Gateway`; one of it, so queue and keys have one place."""

    def __init__(
        self, settings: ServiceSettings, folder: str, access: Access, replicas: Any
    ) -> None:
        from reward.service.gateway import Gateway

        self._replicas = replicas
        self._access = access
        self._gateway = Gateway(settings, Path(folder), self._forward)

    def __serve_build_asgi_app__(self) -> Any:
        from reward.service.http import build_app

        return build_app(self._gateway, self._access)

    async def beat(self, report: Report) -> tuple[ModelRef, ...]:
        """A replica says what it holds and hears what it should hold."""
        return self._gateway.beat(report)

    async def _forward(self, ref: ModelRef, inputs: list[Sequence[int]]) -> Sequence[float | None]:
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        try:
            _, scores = await self._replicas.score.remote(ref, inputs)
        except (RayError, RayServeException) as error:
            raise ForwardFailed(f"{type(error).__name__}: {error}") from error
        return scores


@dataclass
class RunningService:
    """A started service; `close` ends it, and Ray too if it was started for it."""

    url: str
    version: str
    folder: str | None = None
    _open: bool = field(default=True, repr=False)

    def close(self) -> None:
        """Answer what is in work, stop; a second call does nothing."""
        import ray
        from ray import serve

        if not self._open:
            return
        self._open = False
        atexit.unregister(self.close)
        if self.folder is None:
            serve.delete(APPLICATION)
            return
        serve.shutdown()
        ray.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "RunningService":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start(settings: ServiceSettings, folder: Path, access: Access) -> RunningService:
    """Serve a reward-model folder; returns when every replica can score.

    Joins the Ray that this process is connected to or that RAY_ADDRESS names, else starts a local
    one. Raises RewardModelError for a folder that is no reward model, RunFailed when Ray or the
    replicas do not start.
    """
    ref = reference(folder)
    builder = input_builder(Path(ref.folder))
    if settings.openrlhf.enabled:
        builder.conditions.get(settings.openrlhf.condition)
    own = _connect()
    service = RunningService(f"http://{settings.host}:{settings.port}", ref.version, own)
    atexit.register(service.close)
    try:
        _deploy(settings, ref, access)
    except BaseException:
        service.close()
        raise
    return service


def _connect() -> str | None:
    """Connect to Ray; returns the folder of a local one that was started here."""
    # Ray reads this at its import: a cluster with token authentication refuses us without.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return None
    common: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    address = os.environ.get("RAY_ADDRESS")
    folder = None
    if address:
        common["address"] = address
    else:
        folder = tempfile.mkdtemp(prefix="ray-")
        common |= {
            "address": "local",
            "num_cpus": max(LOGICAL_CPUS, os.cpu_count() or 1),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": folder,
        }
    try:
        ray.init(**common)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise RunFailed(
            f"no Ray at {address or 'local'}: {error}; unset RAY_ADDRESS for a local Ray"
        ) from error
    return folder


def _deploy(settings: ServiceSettings, ref: ModelRef, access: Access) -> None:
    from ray import serve
    from ray.serve.schema import LoggingConfig

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": settings.host, "port": settings.port},
        logging_config=quiet,
    )
    replicas = serve.deployment(
        Replica,
        name=REPLICA,
        num_replicas=settings.replicas,
        # One batch in work, one waiting in the process (see Batcher.dispatch).
        max_ongoing_requests=2,
        health_check_period_s=1,
        graceful_shutdown_timeout_s=5,
        max_constructor_retry_count=1,
        logging_config=quiet,
        ray_actor_options={
            "num_cpus": 1,
            "num_gpus": settings.gpus,
            "runtime_env": {"env_vars": replica_environment(settings.threads)},
        },
    ).bind(APPLICATION, INGRESS, settings.threads, "cuda" if settings.gpus else "cpu")
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name=INGRESS,
        num_replicas=1,
        max_ongoing_requests=10_000,
        graceful_shutdown_timeout_s=5,
        max_constructor_retry_count=1,
        logging_config=quiet,
        ray_actor_options={"num_cpus": 1, "runtime_env": {"env_vars": replica_environment(1)}},
    ).bind(settings, ref.folder, access, replicas)
    try:
        serve.run(ingress, name=APPLICATION, route_prefix="/", logging_config=quiet)
    except RuntimeError as error:
        raise RunFailed(f"the replicas of {ref.folder} do not start: {error}") from error


def replica_environment(threads: int) -> dict[str, str]:
    """What a process must start with: OpenMP reads its threads only once."""
    return {
        "OMP_NUM_THREADS": str(threads),
        # Replicas share the cores: waiting threads must not spin on them.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
    }
