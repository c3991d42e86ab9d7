"""The rollout log survives kill -9 at any moment and refuses what it cannot trust."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from actors.trajectories import RolloutLog, RolloutLogError, Score, Trajectory, Transcript
from pretrain_core.chat import Message

MESSAGES = (Message(role="user", content="hi"), Message(role="assistant", content="a\nb\u2028c"))


def sample(index: int, iteration: int = 0) -> Trajectory:
    per_token = Transcript().given([1, 2]).sampled([3, index], [0, 0], [-0.1, -0.2], None)
    return Trajectory(
        id=f"{iteration}-{index}",
        iteration=iteration,
        sample=0,
        prompt_id=f"p{index}",
        messages=MESSAGES,
        finish_reason="stop",
        condition="helpful",
        seed=index,
        engine="hf",
        **per_token.per_token(),
    )


def filled(folder: Path, count: int = 3) -> tuple[RolloutLog, Path]:
    log = RolloutLog(folder)
    for index in range(count):
        log.append(sample(index))
    return log, folder / "iteration-000000.jsonl"


def test_what_is_written_is_read_with_scores_merged(tmp_path: Path) -> None:
    log, file = filled(tmp_path)
    log.append_scores(0, "rm", {"0-0": Score(value=1.0, rm_version="a")})
    log.append_scores(0, "rm", {f"0-{i}": Score(value=float(i), rm_version="b") for i in range(3)})
    log.append(sample(3))
    read = RolloutLog(tmp_path).read(0)
    assert list(read) == ["0-0", "0-1", "0-2", "0-3"]
    assert [read[f"0-{i}"].scores["rm"].rm_version for i in range(3)] == ["b"] * 3
    assert read["0-3"] == sample(3)
    assert file.read_bytes().count(b"\n") == 6
    assert RolloutLog(tmp_path).read(7) == {}


@pytest.mark.parametrize("tail", [1, 30, -1])
def test_a_torn_last_line_is_dropped_and_counted(tmp_path: Path, tail: int) -> None:
    _, file = filled(tmp_path)
    whole = file.read_bytes()
    last = whole[whole.rindex(b"\n", 0, -1) + 1 :]
    file.write_bytes(whole[: -len(last)] + last[:tail])
    log = RolloutLog(tmp_path)
    assert list(log.read(0)) == ["0-0", "0-1"]
    assert log.torn_lines == 1
    log.append(sample(2))
    assert file.read_bytes() == whole
    assert list(log.read(0)) == ["0-0", "0-1", "0-2"]


def test_zeroes_left_by_a_power_cut_are_a_torn_line(tmp_path: Path) -> None:
    _, file = filled(tmp_path)
    file.write_bytes(file.read_bytes() + b"\0" * 100)
    log = RolloutLog(tmp_path)
    assert len(log.read(0)) == 3
    assert log.torn_lines == 1


def test_a_corrupt_inner_line_is_refused_with_file_and_line(tmp_path: Path) -> None:
    _, file = filled(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content.replace(b'"prompt_id":"p1"', b'"prompt_id":"p9"'))
    for use in (lambda log: log.read(0), lambda log: log.append(sample(9))):
        with pytest.raises(RolloutLogError, match=r"iteration-000000\.jsonl:2: checksum") as error:
            use(RolloutLog(tmp_path))
        assert (error.value.file, error.value.line) == (file, 2)


def test_duplicates_and_unknown_ids_are_refused(tmp_path: Path) -> None:
    log, file = filled(tmp_path)
    with pytest.raises(RolloutLogError, match="duplicate trajectory id '0-1'"):
        log.append(sample(1))
    with pytest.raises(RolloutLogError, match="duplicate trajectory id '0-1'"):
        RolloutLog(tmp_path).append(sample(1))
    with pytest.raises(RolloutLogError, match="unknown trajectories"):
        log.append_scores(0, "rm", {"nobody": Score(value=0.0, rm_version="a")})
    line = file.read_bytes().splitlines(keepends=True)[0]
    file.write_bytes(file.read_bytes() + line)
    with pytest.raises(RolloutLogError, match=":4: duplicate"):
        RolloutLog(tmp_path).read(0)


def test_later_iterations_can_be_dropped(tmp_path: Path) -> None:
    log = RolloutLog(tmp_path)
    assert (log.iterations(), log.drop_after(0)) == ([], [])
    for iteration in (0, 2, 5):
        log.append(sample(1, iteration))
    assert log.drop_after(1) == [2, 5]
    assert log.iterations() == [0]
    log.append(sample(1, 2))
    assert list(log.read(2)) == ["2-1"]


WRITER = """
import sys
from pathlib import Path
from actors.trajectories import RolloutLog
from tests.actors.trajectories.test_log import sample
log = RolloutLog(Path(sys.argv[1]))
index = 0
while True:
    log.append(sample(index))
    sys.stdout.write(f"{index}\\n")
    sys.stdout.flush()
    index += 1
"""


def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    acknowledged = [int(writer.stdout.readline()) for _ in range(20)][-1]
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged = max([acknowledged, *(int(line) for line in writer.stdout.read().split())])
    writer.wait()
    writer.stdout.close()
    log = RolloutLog(tmp_path)
    read = log.read(0)
    assert list(read) == [f"0-{i}" for i in range(len(read))]
    assert len(read) > acknowledged
    log.append(sample(len(read)))
    assert len(RolloutLog(tmp_path).read(0)) == len(read) + 1
