"""What may import what, and what a light import must not load."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import run_python

HEAVY = ("ray", "vllm", "deepspeed", "trl")


def test_imports_go_down_only() -> None:
    found = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    "module",
    [
        "pretrain_core",
        "pretrain_core.model",
        "pretrain_core.train",
        "pretrain_core.sft",
        "reward.losses",
        "reward.model",
        "reward.data",
        "reward.conditions",
    ],
)
def test_light_imports_load_nothing_heavy(module: str) -> None:
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}
    assert not loaded & set(HEAVY)


def test_the_command_line_answers_at_once() -> None:
    """Each of these takes seconds to load, also for `--help` and for a typing mistake."""
    done = run_python(
        "import sys\n"
        "sys.argv = ['cool-rlhf', 'online', '--help']\n"
        "from cool_rlhf.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print(*sys.modules, file=sys.stderr)"
    )
    loaded = set(done.stderr.split())
    assert "cool_rlhf.cli" in loaded
    assert not loaded & {"torch", "transformers", *HEAVY}


def test_every_shipped_settings_file_is_valid() -> None:
    from cool_rlhf.demo.settings import DemoSettings
    from cool_rlhf.online.settings import OnlineSettings
    from cool_rlhf.ppo.settings import PPOSettings
    from pretrain_core.settings import load
    from reward.cli import RewardCommandSettings

    kinds = {"ppo": PPOSettings, "online": OnlineSettings, "reward": RewardCommandSettings}
    for folder, schema in kinds.items():
        for file in sorted(Path("configs", folder).glob("*.yaml")):
            load(schema, file)
    demos = sorted(Path("configs").glob("demo*.yaml"))
    assert len(demos) >= 2
    for file in demos:
        load(DemoSettings, file)
