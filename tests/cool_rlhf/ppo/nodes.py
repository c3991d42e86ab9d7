"""A Ray of several nodes on this machine, in a process of its own: `python -m …nodes ROOM…`.

Prints its address, then ends the worker node that hosts most actors for each line that it reads.
"""

import os
import sys
import tempfile
from pathlib import Path

import psutil

ACTOR = "ray::"
"""How Ray names the processes of actors and tasks."""


def hosted(node: object) -> int:
    """Actors' processes of a node."""
    raylets = node.all_processes["raylet"]  # type: ignore[attr-defined]
    children = [c for raylet in raylets for c in psutil.Process(raylet.process.pid).children(True)]
    names = [" ".join(child.cmdline()) for child in children]
    return sum(name.startswith(ACTOR) and "Worker" in name for name in names)


def main() -> None:
    rooms = [int(room) for room in sys.argv[1:]]
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as scratch:
        # Read when Ray is imported; beside the nodes' files it holds the address of the newest.
        os.environ["RAY_TMPDIR"] = scratch
        (Path(scratch) / "ray").mkdir()
        from ray.cluster_utils import Cluster

        common = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
        head = common | {"num_cpus": rooms[0]}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        for room in rooms[1:]:
            cluster.add_node(num_cpus=room, **common)
        sys.stdout.write(f"{cluster.address}\n")
        sys.stdout.flush()
        for _ in sys.stdin:
            fullest = max(cluster.worker_nodes, key=hosted)
            ended = hosted(fullest)
            cluster.remove_node(fullest, allow_graceful=False)
            sys.stdout.write(f"{ended}\n")
            sys.stdout.flush()
        cluster.shutdown()


if __name__ == "__main__":
    main()
