"""Requests on two scripted replicas: who gets what, and what becomes of it over a pause."""

import os
import signal
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from actors.group import ActorFailed, Group
from actors.placement import RoleResources
from actors.rollout import Request, RequestError, Rollout, RolloutError, SamplingSettings
from actors.rollout.requests import EngineFacts
from actors.rollout.stream import RolloutStream
from tests.actors.rollout.support import ScriptedReplica

SAMPLING = SamplingSettings(max_new_tokens=4)
MANY = 10**6
FACTS = EngineFacts("vllm", "float32", 512, 1000, continuous=True)

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    made = Group("rollout", ScriptedReplica, RoleResources(world_size=2, cpus=0.5))
    yield made
    made.close()


def stream_of(group: Group, facts: EngineFacts = FACTS, room: int = 64) -> RolloutStream:
    rollout = SimpleNamespace(
        group=group,
        facts=facts,
        engine=facts.name,
        replicas=2,
        settings=SimpleNamespace(max_num_seqs=room),
    )
    return RolloutStream(cast(Rollout, rollout), SAMPLING, [5])


@pytest.fixture
def stream(group: Group) -> Iterator[RolloutStream]:
    group.call("load", 0).result()
    group.call("allow", MANY).result()
    made = stream_of(group)
    yield made
    made.close()


def asked(*lengths: int) -> list[Request]:
    """Prompts of so many tokens."""
    return [Request(f"r{at}", [11] * length, at) for at, length in enumerate(lengths)]


def told(group: Group) -> int:
    """Requests that the replicas were given."""
    return sum(map(len, group.call("told").result()))


def test_a_long_prompt_weighs_as_much_as_many_short_ones(stream: RolloutStream) -> None:
    stream.submit(asked(500, *[46] * 10))
    replies = {reply.id: reply for reply in (stream.take() for _ in range(11))}
    with pytest.raises(RolloutError, match="nothing will ever come"):
        stream.take()
    ranks = {name: reply.tokens[0] for name, reply in replies.items()}
    assert {ranks[f"r{at}"] for at in range(1, 11)} == {1 - ranks["r0"]}
    assert all(len(reply.tokens) == 4 for reply in replies.values())


def test_no_replica_gets_more_at_once_than_it_has_room_for(group: Group) -> None:
    group.call("allow", 0).result()
    before = told(group)
    stream = stream_of(group, room=2)
    stream.submit(asked(*[3] * 9))
    while told(group) - before < 4:
        time.sleep(0.01)
    time.sleep(0.1)
    assert told(group) - before == 4
    group.call("allow", MANY).result()
    assert sorted(stream.take().id for _ in range(9)) == [f"r{at}" for at in range(9)]
    stream.close()


def test_replies_go_on_after_a_pause_under_the_new_weights(
    group: Group, stream: RolloutStream
) -> None:
    before = told(group)
    group.call("allow", 2).result()
    stream.submit(asked(3, 3))
    while sum(group.call("allowed").result()):
        time.sleep(0.01)
    with stream.paused():
        group.call("load", 1).result()
        group.call("allow", MANY).result()
        # Inside nothing is asked of anybody, not even what is new.
        stream.submit([Request("late", [11] * 3, 7)])
        time.sleep(0.05)
        assert told(group) - before == 2
    replies = {reply.id: reply for reply in (stream.take() for _ in range(3))}
    versions = {name: reply.policy_version for name, reply in replies.items()}
    cut = [0] * 2 + [1] * 4
    assert versions == {"r0": cut, "r1": cut, "late": [1] * 4}
    assert all(len(r.tokens) == len(r.behaviour_logprobs) for r in replies.values())
    going_on = [r for part in group.call("told").result() for r in part if r.said]
    assert {r.id: list(r.said) for r in going_on} == {
        name: replies[name].tokens[:2] for name in ("r0", "r1")
    }
    # Other draws than those of the beginning, the same whenever it is cut there.
    assert {0, 1}.isdisjoint(r.seed for r in going_on)


def test_a_dead_replica_ends_the_waiting_and_is_named() -> None:
    doomed = Group("rollout", ScriptedReplica, RoleResources(world_size=2, cpus=0.5))
    doomed.call("allow", 0).result()
    stream = stream_of(doomed)
    stream.submit(asked(3, 3, 3))
    os.kill(doomed.only(1, "ping").result(), signal.SIGKILL)
    with pytest.raises(ActorFailed, match="rollout rank 1"):
        stream.take()
    with pytest.raises(ActorFailed, match="rollout rank 1"), stream.paused():
        pytest.fail("went on with a dead replica")
    stream.close()
    doomed.close()


def test_what_cannot_be_served_is_refused_at_once(group: Group, stream: RolloutStream) -> None:
    with pytest.raises(RequestError, match="leaves no room for a reply"):
        stream.submit(asked(1000))
    with pytest.raises(RolloutError, match=r"layout\.name async needs vLLM"):
        stream_of(group, EngineFacts("hf", "float32", 512, 1000))
