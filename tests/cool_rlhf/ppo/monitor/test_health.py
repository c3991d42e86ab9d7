"""Each health light is tripped, and a healthy run has none but good ones."""

import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cool_rlhf.ppo.monitor.health import LIGHTS, Health, HealthSettings, Light, lights
from cool_rlhf.report.health import health as report
from pretrain_core.runs import read_json

HEALTHY = {
    "warmup/critic_only": 0.0,
    "objective/kl": 2.0,
    "objective/entropy": 3.0,
    "policy/clipfrac_avg": 0.05,
    "rollout/reply_tokens": 40.0,
    "rollout/stopped_share": 0.95,
    "critic/vf_explained_var": 0.4,
    "guard/logprob_gap": 0.01,
    "guard/length_correlation": -0.1,
    "hack/alarm": 0.0,
    "hack/rising": 0.0,
}
SETTINGS = HealthSettings(recent=2, baseline=3)


def run_of(**last: float) -> list[dict[str, float]]:
    """Eight healthy iterations, then two with other values."""
    changed = {key.replace("__", "/"): value for key, value in last.items()}
    return [dict(HEALTHY) for _ in range(8)] + [HEALTHY | changed for _ in range(2)]


def by_name(rows: list[dict[str, float]]) -> dict[str, Light]:
    return {light.name: light for light in lights(rows, SETTINGS)}


def test_a_healthy_run_is_good() -> None:
    found = by_name(run_of())
    assert {light.state for light in found.values()} == {"good"}
    assert set(found) == {kind.name for kind in LIGHTS} | {"hacks"}


@pytest.mark.parametrize(
    ("name", "metric", "watch", "bad", "seen", "advice"),
    [
        ("KL", "objective__kl", 12.0, 25.0, "25 nats", "kl_coef"),
        ("entropy", "objective__entropy", 1.2, 0.6, "0.20 of the baseline", "learning rate"),
        ("clipping", "policy__clipfrac_avg", 0.3, 0.5, "50%", "fewer epochs"),
        ("length", "rollout__reply_tokens", 70.0, 100.0, "2.50 times", "hacks detect"),
        ("length", "rollout__reply_tokens", 25.0, 10.0, "4.00 times", "hacks detect"),
        ("cut replies", "rollout__stopped_share", 0.7, 0.3, "70%", "max_new_tokens"),
        ("critic", "critic__vf_explained_var", 0.05, -0.3, "-0.30", "critic-only"),
        ("engine", "guard__logprob_gap", 0.07, 0.2, "0.2 from", "float32"),
        ("reward and length", "guard__length_correlation", -0.6, 0.9, "0.90", "length bias"),
    ],
)
def test_each_light_turns(
    name: str, metric: str, watch: float, bad: float, seen: str, advice: str
) -> None:
    assert by_name(run_of(**{metric: watch}))[name].state == "watch"
    found = by_name(run_of(**{metric: bad}))
    assert found[name].state == "bad"
    assert seen in found[name].seen
    assert advice in found[name].advice
    assert {light.state for other, light in found.items() if other != name} == {"good"}


def test_hacks_follow_the_newest_look() -> None:
    rising = run_of(hack__rising=2.0)
    assert by_name(rising)["hacks"].state == "watch"
    alarmed = run_of(hack__rising=2.0, hack__alarm=1.0)
    assert by_name(alarmed)["hacks"].state == "bad"
    # Iterations without a look leave the newest one standing.
    later = [*alarmed, {k: v for k, v in HEALTHY.items() if not k.startswith("hack/")}]
    assert by_name(later)["hacks"].state == "bad"


def test_what_was_not_measured_has_no_light() -> None:
    rows = [{"objective/kl": 1.0} for _ in range(9)]
    assert list(by_name(rows)) == ["KL"]
    # The critic is not judged while it alone trains, and nothing is compared with itself.
    critic_only = [HEALTHY | {"warmup/critic_only": 1.0} for _ in range(4)]
    assert not {"critic", "entropy", "length"} & set(by_name(critic_only))
    assert not {"entropy", "length"} & set(by_name([dict(HEALTHY) for _ in range(3)]))


def test_a_light_is_told_once_when_it_turns_bad_and_again_after_it_was_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    health = Health(HealthSettings(recent=1), tmp_path)
    bad = HEALTHY | {"objective/kl": 30.0, "guard/logprob_gap": 0.06}
    with caplog.at_level(logging.WARNING):
        shown = [health.look(row) for row in (HEALTHY, bad, bad, HEALTHY, bad)]
    assert shown == ["good", "KL!, engine?", "KL!, engine?", "good", "KL!, engine?"]
    assert [record.message[:11] for record in caplog.records] == ["health: KL:"] * 2
    assert read_json(tmp_path / "health.json")[0]["state"] == "bad"
    page = report(tmp_path)
    assert "● bad" in page
    assert "take an earlier checkpoint" in page
    # Advice of a good light is not shown.
    assert "fewer epochs" not in page


@pytest.mark.parametrize("limits", [{"kl": (20, 10)}, {"entropy": (0.25, 0.5)}])
def test_limits_the_wrong_way_round_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="must be beyond watch"):
        HealthSettings.model_validate(limits)
