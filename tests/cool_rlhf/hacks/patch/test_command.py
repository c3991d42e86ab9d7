"""`cool-rlhf hacks patch` with real reward models: through the gate, and not."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cool_rlhf.cli import app
from cool_rlhf.hacks.patch.settings import PatchError
from reward.data import read_preferences, write_preferences
from reward.evaluation import pair_scores
from reward.model import RewardModel, read_card
from reward.registry import Registry
from reward.service.access import ADMIN_VARIABLE
from reward.service.schemas import ModelStatus
from tests.hacked import TRAIN, Hacked, old_pairs, turned

GATE = ["gate.require_probe=false", "gate.require_legitimate=false", "gate.margin=0.1"]
GATE += ["gate.least_flipped=0.25"]


@pytest.fixture(scope="module")
def files(hacked: Hacked, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    records = {"pairs": hacked.pairs, "old": hacked.old, "held": hacked.held_out}
    pattern = {"kind": "phrase", "gram": ["indeed"]}
    findings = [{"name": "indeed", "under": {}, "pattern": pattern}]
    (folder / "hacks.json").write_text(json.dumps({"findings": findings}))
    return {n: write_preferences(folder / f"{n}.jsonl", found) for n, found in records.items()}


def run(hacked: Hacked, files: dict[str, Path], out: Path, *more: str) -> Result:
    arguments = ["hacks", "patch", str(files["pairs"]), "--reward", str(hacked.parent)]
    arguments += ["--old", str(files["old"]), "--held-out", str(files["held"]), "--out", str(out)]
    arguments += ["--registry", str(out.parent / "registry")]
    train = [f"train.{name}={str(value).lower()}" for name, value in TRAIN.items()]
    settings = [*train, "train.epochs=6", "replay_pairs=3", *GATE]
    return CliRunner().invoke(app, [*arguments, *settings, *more], catch_exceptions=False)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A service that notes what it is asked for."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, "token": self.headers["Authorization"], "body": body})
            card = read_card(Path(body["folder"]))
            status = ModelStatus(
                model="rm",
                version=card.version,
                hash="",
                conditions=tuple(card.conditions.names),
                conditions_hash=card.conditions.hash,
                max_length=card.max_length,
                replicas=(),
                switched=True,
            )
            self.send_response(200)
            self.end_headers()
            self.wfile.write(status.model_dump_json().encode())

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setenv(ADMIN_VARIABLE, "an-admin-token-of-this-test")
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_a_patch_goes_through_the_gate_into_the_registry_and_the_service(
    hacked: Hacked,
    files: dict[str, Path],
    tmp_path: Path,
    service: tuple[str, list[dict[str, Any]]],
) -> None:
    url, asked = service
    out = tmp_path / "out"
    release = ["--register", "tiny", "--promote", "--service", url, "--recalibrate"]
    result = run(hacked, files, out, *release)
    assert result.exit_code == 0, result.output
    record = json.loads((out / "patch.json").read_text())
    assert record["gate"]["verdict"] == "pass"
    assert record["parent"]["version"] == read_card(hacked.parent).version
    assert record["pairs"] == {"indeed": {"training": 45, "held_out": 45}}
    assert len(record["replay"]) == 135
    assert len(read_preferences(out / "held_out_pairs.jsonl").records) == 45
    assert "indeed" in (out / "report.html").read_text()

    registry = Registry("tiny", tmp_path / "registry")
    version = registry.get()
    assert record["release"]["promoted"] == "tiny@1"
    assert version.gate["verdict"] == "pass"
    assert set(version.data) == {"pairs", "old", "held_out", "hacks"}
    assert version.metrics["accuracy"]["all"]["child"]["mean"] > 0.8
    assert version.rm_version == record["child"]["version"] == record["release"]["serves"]
    (call,) = asked
    assert call["token"] == "Bearer an-admin-token-of-this-test"
    assert call["body"]["folder"] == str(registry.path(1))

    plain, scaled = (RewardModel.load(out / name) for name in ("rm", "calibrated"))
    assert plain.card.calibration is None
    scores = [pair_scores(m, hacked.held_out).both for m in (plain, scaled)]
    assert scores[0] == pytest.approx(scores[1])
    due = pair_scores(RewardModel.load(hacked.parent), hacked.held_out).both
    found = scaled.card.calibrated(scores[1])
    assert (found.mean(), found.std()) == pytest.approx((due.mean(), due.std()), abs=1e-4)

    with pytest.raises(PatchError, match="choose another --out"):
        run(hacked, files, out)


def test_a_hack_that_is_not_cured_does_not_keep_another_one_from_being_cured(
    hacked: Hacked, files: dict[str, Path], tmp_path: Path
) -> None:
    """What the model rightly pays for cannot be levelled beside old pairs that hold it."""
    loose = [replace(turned(p), source="hack:loose", id=f"l/{p.id}") for p in old_pairs(45, 6)]
    given = files | {"pairs": write_preferences(tmp_path / "two.jsonl", hacked.pairs + loose)}
    rightful = [replace(p, source="hack:loose") for p in old_pairs(2, 8)]  # too few to decide
    legitimate = str(write_preferences(tmp_path / "rightful.jsonl", rightful))
    more = ["--legitimate", legitimate, "replay_pairs=2", "leave_uncured=true"]
    out = tmp_path / "out"
    result = run(hacked, given, out, *more)
    assert result.exit_code == 0, result.output
    assert "left out, not cured: loose" in result.output
    record = json.loads((out / "patch.json").read_text())
    assert list(record["pairs"]) == ["indeed"]
    assert list(record["left_out"]) == ["loose"]
    assert {test["hack"] for test in record["gate"]["tests"]} == {"indeed", None}
    assert read_card(out / "rm_with_uncured").version != record["child"]["version"]
    assert "was made without them" in (out / "report.html").read_text()

    # Killed after the decision: the same command makes the second child, and that one alone.
    shutil.rmtree(out / "rm")
    again = run(hacked, given, out, *more)
    assert again.exit_code == 0, again.output
    assert json.loads((out / "patch.json").read_text())["child"] == record["child"]


def test_a_patch_that_over_corrects_is_kept_but_not_promoted(
    hacked: Hacked,
    files: dict[str, Path],
    tmp_path: Path,
    service: tuple[str, list[dict[str, Any]]],
) -> None:
    url, asked = service
    changes = ["objective=rank", "replay=none", "train.epochs=8"]
    release = ["--register", "tiny", "--promote", "--service", url]
    result = run(hacked, files, tmp_path / "out", *changes, *release)
    assert result.exit_code == 1
    assert "not promoted: pays nothing: indeed: fail: over-corrected" in result.output
    registry = Registry("tiny", tmp_path / "registry")
    assert registry.promoted is None
    assert registry.get(1).gate["verdict"] == "fail"
    assert not asked
    assert "promoted" not in json.loads((tmp_path / "out" / "patch.json").read_text())["release"]


def test_what_cannot_be_judged_is_not_promoted_either(hacked: Hacked, tmp_path: Path) -> None:
    """Ten held-out pairs of a hack are too few to decide."""
    records = {"pairs": hacked.pairs[:20], "old": hacked.old[:60], "held": hacked.held_out[:40]}
    few = {n: write_preferences(tmp_path / f"{n}.jsonl", found) for n, found in records.items()}
    result = run(hacked, few, tmp_path / "out", "--register", "tiny", "--promote")
    assert result.exit_code == 1
    assert "pattern of indeed unknown (no hacks.json)" in result.output
    assert json.loads((tmp_path / "out" / "patch.json").read_text())["gate"]["verdict"] != "pass"
    assert Registry("tiny", tmp_path / "registry").promoted is None


def test_wrong_requests_are_refused_before_the_training(
    hacked: Hacked, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ADMIN_VARIABLE, raising=False)
    out = tmp_path / "out"
    with pytest.raises(PatchError, match="--register NAME"):
        run(hacked, files, out, "--promote")
    with pytest.raises(PatchError, match=ADMIN_VARIABLE):
        run(hacked, files, out, "--service", "http://127.0.0.1:1")
    with pytest.raises(PatchError, match=r"60 pairs of .* too"):
        run(hacked, files | {"old": files["held"]}, out)
    with pytest.raises(PatchError, match="--early and --late"):
        run(hacked, files, out, "--early", str(files["old"]))
    assert not (out / "rm").exists()
