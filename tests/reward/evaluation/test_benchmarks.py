import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain_core.runs.files import RunError
from reward.evaluation import EvaluationError
from reward.evaluation.benchmark_files import read_benchmark
from reward.evaluation.benchmarks import BenchmarkReport, run_benchmark

Scripted = Callable[..., Any]


def write(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records))
    return path


def means(report: BenchmarkReport) -> dict[str, float]:
    return {name: found.mean for name, found in report.accuracy.items()}


@pytest.fixture
def longer(scripted: Scripted) -> Any:
    return scripted(lambda prompt, reply, condition: float(len(reply)), longest=100)


def test_reward_bench_sections_weigh_maths_like_all_code(tmp_path: Path, longer: Any) -> None:
    def case(subset: str, right: bool) -> dict[str, str]:
        sides = ("long reply", "short") if right else ("short", "long reply")
        return {"prompt": "Go.", "chosen": sides[0], "rejected": sides[1], "subset": subset}

    records = [case("alpacaeval-easy", True)] * 3 + [case("mt-bench-med", False)]
    records += [case("mt-bench-hard", False)] * 2
    records += [case("math-prm", True)] + [case("hep-go", False)] * 4 + [case("hep-rust", True)] * 2
    report = run_benchmark(longer, read_benchmark(write(tmp_path / "rb.json", records)))
    found = means(report)
    assert report.shape == "RewardBench"
    assert found["section chat"] == 0.75
    assert found["section chat hard"] == 0.0
    assert found["section reasoning"] == pytest.approx((1 + 2 / 6) / 2)
    assert found["score (mean of sections)"] == pytest.approx((0.75 + 0 + 2 / 3) / 3)
    assert found["hep-go"] == 0.0
    assert report.accuracy["section chat"].n == 4
    assert "section safety" not in found


def test_llmbar_folders_keep_their_names_and_labels(tmp_path: Path, longer: Any) -> None:
    def case(label: int) -> dict[str, Any]:
        return {"input": "Go.", "output_1": "long reply", "output_2": "short", "label": label}

    write(tmp_path / "Natural" / "dataset.json", [case(1), case(1)])
    write(tmp_path / "Adversarial" / "Neighbor" / "dataset.json", [case(2), case(1)])
    found = means(run_benchmark(longer, read_benchmark(tmp_path)))
    assert found == {"Adversarial/Neighbor": 0.5, "Natural": 1.0, "score (mean of sets)": 0.75}


def test_rm_bench_is_hard_where_the_wrong_reply_has_the_richer_style(
    tmp_path: Path, longer: Any
) -> None:
    def case(domain: str, tie: bool = False) -> dict[str, Any]:
        rejected = ["yy", "yyyy", "yyyyyy"] if tie else ["y", "yyy", "yyyyy"]
        return {
            "id": domain,
            "prompt": "Go.",
            "chosen": ["xx", "xxxx", "xxxxxx"],
            "rejected": rejected,
            "domain": domain,
        }

    records = [case("chat"), case("safety-refuse"), case("safety-response", tie=True)]
    found = means(run_benchmark(longer, read_benchmark(write(tmp_path / "rm.json", records))))
    assert (found["chat, easy"], found["chat, normal"], found["chat, hard"]) == (1.0, 1.0, 0.0)
    assert found["chat, average"] == pytest.approx(2 / 3)
    assert found["safety, normal"] == 0.5  # equal scores are wrong
    assert found["all domains, normal"] == 0.75


def test_parquet_and_lines_hold_the_same(tmp_path: Path, longer: Any) -> None:
    import pyarrow
    from pyarrow import parquet

    records = [
        {"prompt": "Go.", "chosen": "long reply", "rejected": "short", "subset": "donotanswer"}
    ]
    lines = tmp_path / "a.jsonl"
    lines.write_text(json.dumps(records[0]) + "\n")
    parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "a.parquet")
    found = [read_benchmark(lines), read_benchmark(tmp_path / "a.parquet")]
    assert found[0] == found[1]
    assert means(run_benchmark(longer, found[0]))["section safety"] == 1.0


def test_bad_records_are_counted_and_named(tmp_path: Path, longer: Any) -> None:
    good = {"prompt": "Go.", "chosen": "long reply", "rejected": "short", "subset": "s"}
    records = [good, {**good, "chosen": " "}, {"prompt": "Go."}, {**good, "chosen": "x" * 200}]
    benchmark = read_benchmark(write(tmp_path / "rb.json", records))
    assert [(q.line, q.reason.split(":")[0]) for q in benchmark.quarantined] == [
        (2, "'chosen'"),
        (3, "no 'chosen'"),
    ]
    assert run_benchmark(longer, benchmark).left_out == 3
    with pytest.raises(EvaluationError, match="none of the known shapes"):
        read_benchmark(write(tmp_path / "x.json", [{"question": "?"}]))
    with pytest.raises(EvaluationError, match="expected a list"):
        read_benchmark(write(tmp_path / "x.json", {}))  # type: ignore[arg-type]
    one = {"input": "Go.", "output_1": "a", "output_2": "b", "label": 3}
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match="no usable case; the first: label 3"):
        read_benchmark(write(tmp_path / "x.json", [one]))
    with pytest.raises(EvaluationError, match=r"no dataset\.json"):
        read_benchmark(tmp_path / "empty")
    for name in ("no.parquet", "no.jsonl", "no.json"):
        with pytest.raises(RunError, match="no such file"):
            read_benchmark(tmp_path / name)
    with pytest.raises(EvaluationError, match="no case fits"):
        run_benchmark(longer, read_benchmark(write(tmp_path / "x.json", [records[3]])))
