"""The doctor finds what is wrong and stays quick."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from cool_rlhf.doctor import diagnose, report_text


def test_this_machine_is_described() -> None:
    checks = {check.name: check for check in diagnose()}
    assert {"python", "cores", "memory", "packages", "torch", "vllm", "gpu"} <= set(checks)
    assert checks["torch"].detail == importlib.metadata.version("torch")
    assert all(check.advice for check in checks.values() if not check.ok)
    text = report_text(list(checks.values()))
    assert all(name in text for name in checks)


def test_leaked_segments_are_counted(tmp_path: Path) -> None:
    (tmp_path / "psm_1a2b").write_bytes(b"x" * 2**20)
    (tmp_path / "other").write_bytes(b"x")
    leaked = next(check for check in diagnose(tmp_path) if check.name == "leaked segments")
    assert not leaked.ok
    assert leaked.detail == "1 psm_* files, 1 MiB"
    assert f"rm {tmp_path}/psm_*" in leaked.advice


@pytest.mark.parametrize(("flags", "products"), [("avx2 fma", "fp32"), ("avx2 avx512f", "bf16")])
def test_what_the_processor_multiplies(tmp_path: Path, flags: str, products: str) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags\t: {flags}\n")
    found = next(c for c in diagnose(processor=cpuinfo) if c.name == "matrix products")
    assert found.ok
    assert found.detail.startswith(products)
    assert not [c for c in diagnose(processor=tmp_path / "none") if c.name == "matrix products"]


def test_wrong_pins_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy==0.1", "nonesuch-package", "pydantic>=2", "torch==9; extra == 'cpu'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    packages = next(check for check in diagnose() if check.name == "packages")
    assert not packages.ok
    assert "numpy is " in packages.detail
    assert "nonesuch-package is missing" in packages.detail
    assert "pydantic" not in packages.detail
    assert "torch" not in packages.detail


def test_the_doctor_imports_nothing_slow() -> None:
    code = (
        "import sys; from cool_rlhf.doctor import diagnose; diagnose(); "
        "print({'torch', 'vllm', 'ray', 'deepspeed', 'transformers'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
