"""The cache folder follows the environment, and exists for every user."""

import os
from pathlib import Path

import pytest

from fastlt.runtime.cache import advice, cache_dir, private_folder


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTLT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    private_folder.cache_clear()


def test_it_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("FASTLT_CACHE")
    assert cache_dir() == tmp_path / "xdg" / "fastlt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "fastlt"


@pytest.mark.parametrize("variable", ["FASTLT_CACHE", "XDG_CACHE_HOME"])
def test_a_variable_that_names_no_folder_is_named(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for value in ("~nosuch", str(tmp_path / "file"), "x" * 5000):
        monkeypatch.setenv(variable, value)
        with pytest.raises(ValueError, match=rf"^{variable}: got '{value}'"):
            cache_dir()


def test_a_relative_folder_stays_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTLT_CACHE", "own")
    assert cache_dir() == tmp_path / "own"


@pytest.mark.parametrize("home", [None, "/dev/null/nothing"])
def test_a_user_without_a_home_has_a_private_folder(
    home: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr(os, "getuid", lambda: 54321)  # without an entry in the list of users
        with pytest.raises(ValueError, match=r"^FASTLT_CACHE: got none.*fastlt-54321 is another user's"):
            cache_dir()
        return
    monkeypatch.setenv("HOME", home)
    folder = cache_dir()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_cannot_be_written_in_the_cache_has_advice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path))
    assert "set FASTLT_CACHE" in advice(tmp_path / "datasets")
    assert advice(tmp_path.parent) == advice(None) == ""
    monkeypatch.setenv("FASTLT_CACHE", "~nosuch")
    assert advice(tmp_path) == ""
