"""Groups on Ray: results by rank, and failures that are named within seconds, never a hang."""

import os
import signal
from collections.abc import Iterator

import pytest
import ray

from actors.group import ActorFailed, Group
from actors.placement import Placement, PlacementError, RaySession, RoleResources, start_ray
from actors.supervisor import Supervisor
from actors.worker import Worker
from tests.actors.probe import FragileWorker, UnstartableWorker
from tests.support import run_python

pytestmark = pytest.mark.usefixtures("ray_session")


def group_of(world_size: int, worker: type[Worker] = FragileWorker) -> Group:
    return Group("fragile", worker, RoleResources(world_size=world_size, cpus=0.5))


@pytest.fixture
def pair() -> Iterator[Group]:
    group = group_of(2)
    yield group
    group.close()


def test_ranks_meet_answer_in_order_and_one_error_is_named(pair: Group) -> None:
    assert pair.scatter("total", [(1,), (2,)]).result() == [3, 3]
    assert len(set(pair.call("ping").result())) == 2
    with pytest.raises(ValueError, match="3 shards for 2 ranks"):
        pair.scatter("total", [(1,)] * 3)
    pending = pair.call("fail_on", 1)
    with pytest.raises(ActorFailed, match=r"fragile rank 1 failed: KeyError: 'no such column'"):
        pending.result()
    # Rank 0 still waits for rank 1: no later call may queue behind it.
    with pytest.raises(ActorFailed, match="no such column"):
        pair.call("ping")


def test_a_killed_rank_is_blamed_and_not_the_one_that_lost_it(pair: Group) -> None:
    with pytest.raises(ActorFailed) as caught:
        pair.call("die_on", 1).result()
    assert (caught.value.role, caught.value.rank) == ("fragile", 1)
    assert isinstance(caught.value.cause, ray.exceptions.RayActorError)


def test_the_supervisor_names_the_dead_and_leaves_the_busy_alone() -> None:
    alive, busy = group_of(1), group_of(1)
    try:
        victim = alive.call("ping").result()[0]
        busy.ready()
        pending = busy.call("wait_for_ever")
        supervisor = Supervisor([alive, busy])
        assert supervisor.dead() == []
        with pytest.raises(TimeoutError, match=r"fragile ranks \[0\] gave no answer"):
            pending.result(timeout=0.1)
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(ActorFailed, match="fragile rank 0"):
            alive.call("ping").result()
        dead = supervisor.dead(patience_s=2)
        assert [failed.rank for failed in dead] == [0]
        with pytest.raises(ActorFailed):
            supervisor.check()
    finally:
        alive.close()
        busy.close()


def test_workers_have_the_priority_of_what_started_them(pair: Group) -> None:
    assert pair.call("niceness").result() == [os.nice(0)] * 2


def test_a_worker_that_cannot_start_says_why() -> None:
    group = group_of(1, UnstartableWorker)
    with pytest.raises(ActorFailed, match="no room on device"):
        group.ready()
    group.close()


def test_roles_that_do_not_fit_are_refused_with_what_is_free() -> None:
    with pytest.raises(PlacementError, match=r"roles big need \{'CPU': 1000.0\}, free are"):
        Placement({"big": RoleResources(cpus=1000)})


def test_an_unreachable_cluster_is_an_error() -> None:
    code = "from actors.placement import start_ray; start_ray()"
    done = run_python(code, env={"RAY_ADDRESS": "127.0.0.1:1"})
    assert done.returncode != 0
    assert "PlacementError: no Ray at 127.0.0.1:1" in done.stderr


def test_a_second_session_is_refused_and_the_first_lives_on(ray_session: RaySession) -> None:
    with pytest.raises(PlacementError, match="connected to a Ray already"):
        start_ray()
    assert ray_session.local
    Placement({"small": RoleResources()}).close()
