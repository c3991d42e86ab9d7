"""Which policy is kept, of evaluations that were made up."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cool_rlhf.ppo.evaluation.frontier import REFERENCE, select, standings
from cool_rlhf.report.evaluations import evaluations as part_of_the_report
from pretrain_core.draws import rng
from pretrain_core.runs import write_json


def evaluation(kl: float, gold: float | None, prompts: int = 200, noise: float = 1.0) -> Any:
    """Gold with a part of its own in each reply, and one of the prompt's that all share."""
    shared = rng(0, "prompts").normal(size=prompts)
    own = rng(1, "replies", sample=f"{kl} {gold}").normal(size=prompts) * noise
    rows = [
        {
            "id": f"p{n}",
            "kl": kl,
            "score": kl,
            "gold": None if gold is None else gold + shared[n] + own[n],
            "tokens": 10,
        }
        for n in range(prompts)
    ]
    return {"samples": rows, "text_loss": 3.0 + kl / 100}


def test_the_cheapest_of_those_that_gold_cannot_tell_from_the_best_is_kept() -> None:
    found = {
        "000004": evaluation(1.0, 0.2),
        "000009": evaluation(4.0, 1.0),
        "000014": evaluation(9.0, 1.02),
        "000019": evaluation(20.0, 0.5),
    }
    kept = select(found)
    assert kept.name == "000009"
    assert "least KL of those not surely worse than 000014" in kept.reason
    # Four thousand prompts tell them apart where two hundred cannot.
    sure = {
        name: evaluation(one["samples"][0]["kl"], gold, 4000, 0.1)
        for (name, one), gold in zip(found.items(), (0.2, 1.0, 1.1, 0.5), strict=True)
    }
    assert select(sure).name == "000014"
    assert "most gold" in select(sure).reason


def test_policies_at_no_distance_have_their_place_in_the_picture(tmp_path: Path) -> None:
    (tmp_path / "evaluations").mkdir()
    for name, kl, gold in ((REFERENCE, 0.0, 0.0), ("000004", -0.1, 0.1), ("000009", 2.0, 0.5)):
        write_json(tmp_path / f"evaluations/{name}.json", evaluation(kl, gold))
    assert "<svg" in part_of_the_report(tmp_path)


def test_without_gold_the_last_one_is_kept_and_says_so() -> None:
    found = {"000004": evaluation(1.0, None), "000009": evaluation(2.0, None)}
    assert select(found).name == "000009"
    assert "no gold signal" in select(found).reason
    with pytest.raises(ValueError, match="no policy was evaluated"):
        select({REFERENCE: evaluation(0.0, 1.0)})


def test_only_prompts_that_gold_judged_for_all_of_them_count() -> None:
    first, second = evaluation(1.0, 0.0), evaluation(2.0, 1.0)
    for row in second["samples"][:150]:
        row["gold"] = None
    assert select({"a": first, "b": second}).name == "b"
    for row in second["samples"][150:199]:
        row["gold"] = None
    for row in first["samples"][199:]:
        row["gold"] = None
    assert "gold judged no prompt" in select({"a": first, "b": second}).reason


def test_policies_stand_against_the_reference_and_each_other() -> None:
    found = standings(
        {
            "000009": evaluation(4.0, 1.0),
            REFERENCE: evaluation(0.0, 0.0),
            "000014": evaluation(9.0, 0.9),
        }
    )
    assert [one.name for one in found] == [REFERENCE, "000009", "000014"]
    assert [one.on_frontier for one in found] == [True, True, False]
    start, good, _ = found
    assert start.gold is not None
    assert start.gold.mean == 0.0
    assert start.wins is not None
    assert start.wins.mean == 0.5
    assert good.gold is not None
    assert good.gold.low < 1.0 < good.gold.high
    assert good.wins is not None
    assert good.wins.low > 0.5
    assert good.text_loss == pytest.approx(3.04)
    alone = standings({"000009": evaluation(4.0, None)})
    assert alone[0].gold is None
    assert np.isfinite(alone[0].score)
