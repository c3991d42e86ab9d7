import json
import shutil
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from rich.console import Console
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from pretrain_core.runs.files import RunError
from pretrain_core.settings import Settings
from reward.card import RewardModelError
from reward.cli import app
from reward.commands import registry as registry_commands
from reward.conditions import Condition, Conditions
from reward.inputs import RewardInputError
from reward.model import RewardModel, create_reward_model
from reward.registry import ModelPath, Registry, RegistryError, names, resolve_model
from tests.support import run_python


@pytest.fixture(scope="module")
def second_folder(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, conditions: Conditions
) -> Path:
    out = tmp_path_factory.mktemp("second") / "model"
    return create_reward_model(model_folder, out, conditions, seed=8)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry("chat", tmp_path / "registry")


def test_register_promote_roll_back(
    registry: Registry, reward_folder: Path, second_folder: Path, tmp_path: Path
) -> None:
    root = registry.folder.parent
    data = tmp_path / "pairs.jsonl"
    data.write_text("{}\n")
    first = registry.register(
        reward_folder, data={"pairs": data}, metrics={"x": 0.5}, gate={"verdict": "pass"}
    )
    second = registry.register(second_folder)
    assert (first.number, second.number) == (1, 2)
    with pytest.raises(RegistryError, match="no version of 'chat' is promoted"):
        resolve_model("registry:chat", root)
    registry.promote(1)
    registry.promote(2, reason="better")
    assert RewardModel.load(resolve_model("registry:chat", root)).version == second.rm_version
    assert (registry.folder / "promoted" / "reward.json").is_file()
    registry.rollback(reason="worse after all")
    assert resolve_model("registry:chat", root) == registry.folder / "versions" / "1"
    assert (registry.folder / "promoted").resolve() == resolve_model("registry:chat", root)
    assert resolve_model("registry:chat@2", root) == registry.folder / "versions" / "2"
    with pytest.raises(RegistryError, match="no earlier promotion"):
        registry.rollback()

    again = Registry("chat", root)
    assert again.versions == {1: first, 2: second}
    assert (again.promoted, names(root)) == (1, ["chat"])
    assert again.get(1).data["pairs"].startswith("ca3d163bab055381827226140568f3be")
    assert [e["event"] for e in again.events()] == ["register"] * 2 + ["promote"] * 2 + ["rollback"]
    assert again.events()[-1]["reason"] == "worse after all"


def test_the_same_model_is_no_new_version(registry: Registry, reward_folder: Path) -> None:
    first = registry.register(reward_folder)
    assert registry.register(reward_folder) == first
    registry.promote(1)
    registry.promote(1)
    assert len(registry.events()) == 2


def test_what_is_not_there_is_said(registry: Registry, reward_folder: Path) -> None:
    root = registry.folder.parent
    with pytest.raises(RegistryError, match="no reward model is registered as 'chat'"):
        registry.get()
    registry.register(reward_folder)
    with pytest.raises(RegistryError, match="no version 7, only 1"):
        registry.promote(7)
    with pytest.raises(RegistryError, match="a version is a number"):
        resolve_model("registry:chat@new", root)
    with pytest.raises(RegistryError, match="use lower-case"):
        resolve_model("registry:../chat", root)
    assert resolve_model("a/b") == Path("a/b")
    assert resolve_model(Path("a")) == Path("a")
    assert resolve_model("cache:rm").name == "rm"


def test_settings_and_commands_name_registered_models(
    reward_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Uses(Settings):
        model: ModelPath

    monkeypatch.setenv("COOL_RLHF_CACHE", str(tmp_path))
    chat = Registry("chat")
    chat.register(reward_folder)
    with pytest.raises(ValidationError, match="no version of 'chat' is promoted"):
        Uses.model_validate({"model": "registry:chat"})
    chat.promote(1)
    found = Uses.model_validate({"model": "registry:chat"}).model
    assert found == chat.folder / "versions" / "1"
    assert Uses.model_validate({"model": found}).model == found
    talk = {"messages": [{"role": role, "content": "Hi."} for role in ("user", "assistant")]}
    (tmp_path / "talks.jsonl").write_text(json.dumps(talk))
    done = CliRunner().invoke(app, ["score", "registry:chat", str(tmp_path / "talks.jsonl")])
    assert RewardModel.load(reward_folder).version in done.output


def test_a_changed_file_is_not_served(registry: Registry, reward_folder: Path) -> None:
    registry.register(reward_folder)
    registry.promote(1)
    card = registry.folder / "versions" / "1" / "reward.json"
    text = card.read_text()
    card.write_text(text.replace("Prefer dark", "Prefer DARK"))
    with pytest.raises(RegistryError, match=r"reward\.json is not the file that was registered"):
        registry.path()
    card.unlink()
    with pytest.raises(RegistryError, match=r"reward\.json is gone"):
        registry.promote(1)
    card.write_text(text)
    (card.parent / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(RegistryError, match=r"not registered: pytorch_model\.bin"):
        registry.path()


def test_a_torn_line_never_happened_and_a_broken_one_is_named(
    registry: Registry, reward_folder: Path, second_folder: Path
) -> None:
    registry.register(reward_folder)
    registry.promote(1)
    with registry.journal.open("a") as journal:
        journal.write('{"event": "promote", "num')
    assert registry.promoted == 1
    assert registry.register(second_folder).number == 2
    assert [e["event"] for e in registry.events()] == ["register", "promote", "register"]
    registry.journal.write_text("{broken\n" + registry.journal.read_text())
    with pytest.raises(RunError, match=r"journal\.jsonl:1"):
        registry.get()


def broken(source: Path, target: Path, **card: object) -> Path:
    shutil.copytree(source, target)
    if card:
        raw = json.loads((target / "reward.json").read_text())
        (target / "reward.json").write_text(json.dumps(raw | card))
    return target


def test_unsound_folders_are_refused(
    registry: Registry, reward_folder: Path, second_folder: Path, tmp_path: Path
) -> None:
    weights = load_file(reward_folder / "model.safetensors")

    def with_weights(name: str, **changed: torch.Tensor | None) -> Path:
        folder = broken(reward_folder, tmp_path / name)
        new = {k: v for k, v in (weights | changed).items() if v is not None}
        save_file(new, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    spoilt = weights["score.weight"].clone()
    spoilt[0, 3] = float("nan")
    bad = {
        r"score\.weight holds NaN": with_weights("nan", **{"score.weight": spoilt}),
        r"no bias-less head": with_weights("headless", **{"score.weight": None}),
        "do not belong together": broken(reward_folder, tmp_path / "other", version="rm-0"),
        "unknown fields colour": broken(reward_folder, tmp_path / "newer", colour="red"),
        "calibrate anew": broken(
            reward_folder, tmp_path / "scale", calibration={"scale": 0, "centre": 0, "pairs": 1}
        ),
        r"model\.pt: pickled": broken(reward_folder, tmp_path / "pickled"),
        "not a readable safetensors": broken(reward_folder, tmp_path / "cut"),
        "2 labels": broken(reward_folder, tmp_path / "labels"),
        "pad token": broken(reward_folder, tmp_path / "pad"),
    }
    (tmp_path / "pickled" / "model.pt").write_bytes(b"x")
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"x" * 20)
    config = json.loads((reward_folder / "config.json").read_text())
    (tmp_path / "labels" / "config.json").write_text(
        json.dumps({k: v for k, v in config.items() if k != "id2label"})
    )
    (tmp_path / "pad" / "config.json").write_text(json.dumps(config | {"pad_token_id": 7}))
    for reason, folder in bad.items():
        with pytest.raises(RewardModelError, match=reason):
            registry.register(folder)
    with pytest.raises(RewardInputError, match="also the"):
        registry.register(broken(reward_folder, tmp_path / "token", score_token="<|im_end|>"))
    assert registry.versions == {}
    # Weights of one model under the card of another.
    mixed = broken(reward_folder, tmp_path / "mixed")
    shutil.copy(second_folder / "model.safetensors", mixed)
    with pytest.raises(RewardModelError, match="do not belong together"):
        registry.register(mixed)


KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path
from reward import registry as module
from reward.registry import Registry, resolve_model

first, second, root = map(Path, sys.argv[1:])
module.check_reward_model = lambda folder: None  # its own tests; here only the steps count
steps = ("_copy", "sync_folder", "append_line", "hash_file")
real = {name: getattr(module, name) for name in steps}
system = {name: getattr(os, name) for name in ("rename", "replace", "fsync", "readlink")}
left = None

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def step(function, name):
    def counted(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            if name == "append_line":  # half a line reaches the disk
                with arguments[0].open("ab") as stream:
                    stream.write(json.dumps(arguments[1]).encode()[:40])
            if name == "_copy":  # half a file
                arguments[1].parent.mkdir(parents=True, exist_ok=True)
                arguments[1].write_bytes(arguments[0].read_bytes()[:100])
            die()
        return function(*arguments, **options)
    return counted

def all_steps():
    entry = Registry("chat", root)
    entry.register(second)
    entry.promote(2)
    entry.rollback()
    entry.promote(2)

start = Registry("chat", root)
start.register(first)
start.promote(1)
backup = root.with_name("backup")
shutil.copytree(root, backup, symlinks=True)
kills = 0
while True:
    child = os.fork()
    if child == 0:
        left = kills + 1
        for name, function in real.items():
            setattr(module, name, step(function, name))
        for name, function in system.items():
            setattr(os, name, step(function, name))
        all_steps()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, status
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    kills += 1
    # Whatever was half done: what is promoted is whole, and the work can be done anew.
    entry = Registry("chat", root)
    assert set(entry.versions) in ({1}, {1, 2}), (kills, entry.versions)
    assert entry.promoted in (1, 2), kills
    assert resolve_model("registry:chat", root) == entry.path(entry.promoted)
    assert (entry.folder / "promoted" / "reward.json").is_file(), kills
    assert entry.register(second).number == 2
    entry.promote(2)
    assert (entry.folder / "promoted").resolve() == entry.path(2).resolve()
    assert {f.name for f in (entry.folder / "versions").iterdir()} == {"1", "2"}, kills
    shutil.rmtree(root)
    shutil.copytree(backup, root, symlinks=True)
print("KILLS", kills)
"""


def test_a_kill_between_any_two_steps_loses_nothing(
    reward_folder: Path, second_folder: Path, tmp_path: Path
) -> None:
    done = run_python(
        KILLED,
        str(reward_folder),
        str(second_folder),
        str(tmp_path / "registry"),
        env={"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split("KILLS")[1]) > 30


def test_the_registry_from_the_command_line(
    reward_folder: Path,
    second_folder: Path,
    tmp_path: Path,
    conditions: Conditions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A width that was set where the module was imported is not changed by the environment.
    monkeypatch.setattr(registry_commands, "console", Console(width=200, highlight=False))
    root = ["--registry", str(tmp_path / "registry")]
    version = RewardModel.load(reward_folder).version
    interval = {"mean": 0.75, "low": 0.7, "high": 0.8, "n": 9}
    metrics = tmp_path / "eval.json"
    metrics.write_text(json.dumps({"version": version, "accuracy": {"all": {"m": interval}}}))
    gate = tmp_path / "gate.json"
    gate.write_text('{"verdict": "pass"}')

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["registry", *arguments, *root], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    options = ["--metrics", str(metrics), "--gate", str(gate), "--data", str(gate)]
    assert f"chat version 1 ({version})" in run(
        "register", str(reward_folder), "--name", "chat", *options
    )
    run("register", str(second_folder), "--name", "chat")
    run("promote", "chat", "1")
    run("promote", "chat", "2", "--reason", "newer")
    assert "back to version 1" in run("rollback", "chat")
    listed = run("list")
    assert "0.750 [0.700, 0.800]" in listed
    assert listed.count("promoted") == 1
    shown = run("show", "chat")
    for text in (conditions.hash, "data gate.json", "newer", "versions/1"):
        assert text in shown
    wrong = ["register", str(second_folder), "--name", "chat", "--metrics", str(metrics), *root]
    done = CliRunner().invoke(app, ["registry", *wrong])
    assert f"the metrics are of {version}" in str(done.exception)


def test_names_of_conditions_stay_with_the_version(
    registry: Registry, model_folder: Path, tmp_path: Path
) -> None:
    other = Conditions([Condition("calm", "Prefer calm replies.")])
    folder = create_reward_model(model_folder, tmp_path / "calm", other, seed=1)
    assert registry.register(folder).conditions_hash == other.hash
