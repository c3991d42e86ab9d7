"""Forward passes that are kept from the experience to the update."""

from typing import cast

import torch
from torch import Tensor

from actors.batch import Sequences
from actors.engines.protocol import Engine
from actors.training import KeptForwards
from tests.actors.samples import random_sequences


class CountingEngine:
    """One weight; says how often it was asked."""

    def __init__(self) -> None:
        self.weight = torch.ones((), requires_grad=True)
        self.asked = 0

    def outputs(self, batch: Sequences) -> Tensor:
        self.asked += 1
        return self.weight * batch.tokens[batch.is_action]


def test_a_pass_is_used_once_and_only_for_its_own_samples_and_iteration() -> None:
    engine = CountingEngine()
    kept = KeptForwards(cast(Engine, engine))
    one, other = random_sequences([5], seed=1), random_sequences([5], seed=2)
    with torch.no_grad():
        found = kept.keeping(3)(one)
    assert not found.requires_grad
    assert kept.outputs(one).requires_grad
    assert engine.asked == 1
    # Given out, so computed again; and other samples are others.
    kept.outputs(one)
    kept.outputs(other)
    assert engine.asked == 3
    with torch.no_grad():
        kept.keeping(4)(one)
        kept.keeping(4)(other)
        assert len(kept) == 2
        kept.keeping(None)(one)
        assert len(kept) == 2
        kept.keeping(5)(other)
    assert len(kept) == 1
    kept.clear()
    kept.outputs(other)
    assert engine.asked == 8
