import pytest

from tests.support import run_python

HEAVY = ("ray", "vllm", "deepspeed", "trl")


@pytest.mark.parametrize(
    "modules",
    [
        "reward.losses, reward.model, reward.data, reward.conditions, reward.packing, "
        "reward.trainer, reward.evaluation, reward.cli"
    ],
)
def test_the_reward_package_loads_no_heavy_library(modules: str) -> None:
    done = run_python(f"import sys, {modules}; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_training_loads_neither_vllm_nor_ray() -> None:
    done = run_python(
        f"import sys, reward.trl_trainer; print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    assert done.stdout.strip() == "['trl']", done.stderr
