"""Batches larger than Ray's object store: slower, through the disk, and never lost."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import torch

from actors.group import Group
from actors.placement import RaySettings, RoleResources, start_ray
from tests.actors.probe import EchoWorker

with start_ray(RaySettings(object_store_mb=80)):
    group = Group("echo", EchoWorker, RoleResources(cpus=0.5))
    # 64 MiB each, and one that is larger than the whole store.
    sizes = [2**24, 2**24, 2**24, 2**25]
    pending = [group.call("echo", torch.full((size,), float(n))) for n, size in enumerate(sizes)]
    print([float(part.result()[0].mean()) for part in pending])
    group.close()
"""


@pytest.mark.integration
def test_an_object_store_that_is_full_loses_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "[0.0, 1.0, 2.0, 3.0]" in done.stdout
