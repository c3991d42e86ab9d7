"""Where actors run: the Ray cluster and one placement group for all roles."""

import atexit
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from pretrain_core.errors import RunFailed
from pretrain_core.settings import Settings

logger = logging.getLogger(__name__)


class PlacementError(RunFailed):
    """The cluster cannot be reached, or has no room for the roles."""


class RaySettings(Settings):
    """Which Ray to use."""

    address: str | None = Field(
        default=None,
        description="cluster to join; default: RAY_ADDRESS or the job's own, else a local Ray",
    )
    logical_cpus: int = Field(
        default=16,
        gt=0,
        description="of a local Ray: room for all roles, however few cores there are",
    )
    object_store_mb: int = Field(
        default=512, ge=80, description="shared memory of a local Ray, MiB"
    )
    worker_logs: bool = Field(default=False, description="show what the actors print")


@dataclass
class RaySession:
    """A connection to Ray; closing it stops the cluster only if it was started here."""

    address: str
    folder: str | None = None
    _open: bool = field(default=True, repr=False)

    @property
    def local(self) -> bool:
        """Whether this process started the cluster."""
        return self.folder is not None

    def close(self) -> None:
        """Disconnect; a local cluster ends and leaves no files. A second call does nothing."""
        import ray

        if not self._open:
            return
        self._open = False
        atexit.unregister(self.close)
        ray.shutdown()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def borrowed(self) -> "RaySession":
        """The same connection for somebody else, whose closing leaves it open."""
        return RaySession(self.address, _open=False)

    def __enter__(self) -> "RaySession":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start_ray(settings: RaySettings | None = None) -> RaySession:
    """Join the cluster of `address`, RAY_ADDRESS or the surrounding job; else start a local one.

    A local Ray authenticates by token without further ado. To join one that does, set
    `RAY_AUTH_MODE=token` before Python starts (`ray job submit` needs it too): Ray reads it at its
    import. Raises PlacementError when the cluster cannot be reached.
    """
    import ray

    if ray.is_initialized():
        raise PlacementError("this process is connected to a Ray already: close that session first")
    settings = settings or RaySettings()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = settings.address or os.environ.get("RAY_ADDRESS")
    common: dict[str, Any] = {
        "logging_level": logging.ERROR,
        "log_to_driver": settings.worker_logs,
    }
    if address:
        _check_reachable(address)
        session = RaySession(address)
        common["address"] = address
        way_out = (
            "unset RAY_ADDRESS for a local Ray; with token authentication, set"
            " RAY_AUTH_MODE=token on both sides"
        )
    else:
        folder = tempfile.mkdtemp(prefix="ray-")
        session = RaySession("local", folder)
        common |= {
            "address": "local",
            "num_cpus": max(settings.logical_cpus, os.cpu_count() or 1),
            "include_dashboard": False,
            "object_store_memory": settings.object_store_mb * 2**20,
            "_temp_dir": folder,
        }
        way_out = "see that RAY_AUTH_MODE was set before Python started, if at all"
    try:
        ray.init(**common)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        session.close()
        raise PlacementError(f"no Ray at {session.address}: {error}; {way_out}") from error
    atexit.register(session.close)
    return session


def _check_reachable(address: str) -> None:
    """Fail at once where Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise PlacementError(
            f"no Ray at {address}: {error}; start it, or unset RAY_ADDRESS for a local Ray"
        ) from error


class RoleResources(Settings):
    """What one role takes of the cluster."""

    world_size: int = Field(default=1, gt=0, description="ranks (processes) of the role")
    threads: int = Field(default=1, gt=0, description="CPU threads of each rank")
    cpus: float = Field(default=1.0, gt=0, description="logical CPUs that Ray counts for each rank")
    gpus: float = Field(default=0.0, ge=0, description="GPUs of each rank")

    @property
    def bundle(self) -> dict[str, float]:
        """Ray resources of one rank."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


class Placement:
    """Room for several roles, reserved at once: either all of them fit or none starts."""

    def __init__(self, roles: Mapping[str, RoleResources], timeout_s: float = 60) -> None:
        """Raises PlacementError, with what is free, when the cluster has no room in time."""
        import ray
        from ray.util.placement_group import placement_group, remove_placement_group

        self.roles = dict(roles)
        self._first: dict[str, int] = {}
        bundles: list[dict[str, float]] = []
        for role, resources in self.roles.items():
            self._first[role] = len(bundles)
            bundles += [resources.bundle] * resources.world_size
        self.group = placement_group(bundles, strategy="PACK")
        if not self.group.wait(_patience(bundles, timeout_s)):
            remove_placement_group(self.group)
            free = {name: ray.available_resources().get(name, 0) for name in ("CPU", "GPU")}
            raise PlacementError(
                f"roles {', '.join(self.roles)} need {_total(bundles)}, free are {free}: start the"
                " cluster with more logical CPUs (ray start --head --num-cpus=16) or end other jobs"
            )

    def options(self, role: str, rank: int) -> dict[str, Any]:
        """Ray actor options that put `rank` of `role` into its bundle."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        resources = self.roles[role]
        return {
            "num_cpus": resources.cpus,
            "num_gpus": resources.gpus,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self.group, placement_group_bundle_index=self._first[role] + rank
            ),
        }

    def close(self) -> None:
        """Give the room back; actors in it end."""
        from ray.util.placement_group import remove_placement_group

        remove_placement_group(self.group)


def _total(bundles: list[dict[str, float]]) -> dict[str, float]:
    names = {name for bundle in bundles for name in bundle}
    return {name: sum(bundle.get(name, 0.0) for bundle in bundles) for name in sorted(names)}


def _patience(bundles: list[dict[str, float]], timeout_s: float) -> float:
    """Seconds to wait: almost none when the whole cluster is smaller than what is asked."""
    import ray

    capacity = ray.cluster_resources()
    fits = all(capacity.get(name, 0) >= count for name, count in _total(bundles).items())
    return timeout_s if fits else 1.0
