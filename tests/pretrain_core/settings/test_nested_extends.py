"""A part of a settings file may start from another file."""

from pathlib import Path

from pretrain_core.settings import Settings, load


class Inner(Settings):
    rate: float
    size: int = 1


class Outer(Settings):
    inner: Inner
    name: str


def test_a_part_extends_a_file_relative_to_its_own(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "inner.yaml").write_text("rate: 0.5\nsize: 3\n")
    (tmp_path / "outer.yaml").write_text(
        "name: x\ninner:\n  extends: recipes/inner.yaml\n  size: 4\n"
    )
    resolved = load(Outer, tmp_path / "outer.yaml", ["inner.rate=0.25"])
    assert resolved.value == Outer(name="x", inner=Inner(rate=0.25, size=4))
    assert resolved.origins["inner.size"].endswith("outer.yaml:4")
    resolved = load(Outer, tmp_path / "outer.yaml")
    assert resolved.origins["inner.rate"].endswith("inner.yaml:1")
