"""One version, one door, and a wheel that holds what a checkout holds."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import tunekit
from conftest import ROOT


def test_the_public_names_are_the_documented_ones() -> None:
    assert sorted(tunekit.__all__) == ["TunekitError", "__version__", "main"]


def test_the_changelogs_newest_version_is_the_packages() -> None:
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest[1] == tunekit.__version__


def test_the_pinned_set_lies_within_the_ranges_of_pyproject() -> None:
    import tomllib

    from packaging.requirements import Requirement

    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert pins["torch"] == "2.13.0"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    for requirement in map(Requirement, wanted):
        pin = {k.lower(): v for k, v in pins.items()}.get(requirement.name.lower())
        assert pin is not None, f"{requirement.name} is not pinned"
        assert requirement.specifier.contains(pin), requirement


def test_nothing_committed_names_a_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        file = ROOT / name
        if file.suffix in (".py", ".md", ".yaml", ".toml", ".sh", ".txt", ""):
            text = file.read_text(encoding="utf-8")
            assert not re.search(r"/(home|root|Users)/\w", text), name


@pytest.mark.slow
def test_the_wheel_runs_with_its_presets_and_recipes(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    for part in ("conf", "recipes"):
        ours = {str(f.relative_to(ROOT / part)) for f in (ROOT / part).rglob("*") if f.is_file()}
        theirs = {
            str(f.relative_to(site / "tunekit" / part)) for f in (site / "tunekit" / part).rglob("*") if f.is_file()
        }
        assert ours == theirs
    env = {**os.environ, "PYTHONPATH": str(site)}
    for words in (["method=dpo", "model=mistral-7b", "--cfg", "job"], ["recipes/zephyr-7b/2-dpo.yaml", "--cfg", "job"]):
        out = subprocess.run(
            [sys.executable, "-m", "tunekit", *words], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert out.returncode == 0, out.stderr
        assert "path: HuggingFaceH4/ultrafeedback_binarized" in out.stdout
    where = subprocess.run([sys.executable, "-c", "import tunekit.paths; print(tunekit.paths.CONF)"], env=env,
                           cwd=tmp_path, capture_output=True, text=True)  # fmt: skip
    assert where.stdout.strip() == str(site / "tunekit" / "conf")
