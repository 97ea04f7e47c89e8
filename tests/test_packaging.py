import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import qbench

ROOT = Path(__file__).resolve().parents[1]

TOP_LEVEL = {
    "pyproject.toml", "README.md", "Makefile", "LICENSE", "constraints.txt",
    "conf", "qbench", "tests", "multirun",
}  # fmt: skip

EXTRAS = {"atari", "mujoco", "minatar", "deploy", "report", "submitit", "ray", "joblib", "dev"}


def tracked_files() -> list[str]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return listing.stdout.splitlines()


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_the_installed_version_is_the_package_version():
    assert metadata.version("qbench") == qbench.__version__


def test_the_console_script_is_the_module():
    (script,) = metadata.entry_points(group="console_scripts", name="qbench")
    assert script.value == "qbench.__main__:main"


def test_every_promised_extra_exists():
    assert set(metadata.metadata("qbench").get_all("Provides-Extra")) >= EXTRAS


def test_top_level_holds_only_what_the_layout_allows():
    names = {path.partition("/")[0] for path in tracked_files()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


def test_no_constraint_names_a_build_a_host_or_a_path():
    for name, version in constraints().items():
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), name


def test_what_is_installed_is_what_the_constraints_say():
    installed = {
        re.sub(r"[-_.]+", "-", package.name).lower(): package.version.partition("+")[0]
        for package in metadata.distributions()
    }
    shared = constraints().keys() & installed.keys()
    assert {name: installed[name] for name in shared} == {n: constraints()[n] for n in shared}


def test_every_direct_dependency_has_a_constraint():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    chosen = [*extras["dev"], *extras["deploy"], *extras["report"], *extras["bench"]]
    required = [*project["dependencies"], *chosen]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in required}
    assert names <= constraints().keys()


def test_ci_runs_make_test():
    commands = (ROOT / ".ci" / "run").read_text().splitlines()
    assert commands[-1] == "make test"


@pytest.mark.parametrize("target", ["quickstart", "test", "lint", "bench", "slow", "help"])
def test_make_without_a_target_lists(target):
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^  make {target} ", shown, re.MULTILINE)


@pytest.mark.slow  # Fetches the build backend.
def test_a_wheel_holds_the_config_inside_the_package(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT],
        check=True,
    )
    (wheel,) = tmp_path.glob("qbench-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    config = {path.relative_to(ROOT) for path in (ROOT / "conf").rglob("*.yaml")}
    assert {f"qbench/{path.as_posix()}" for path in config} <= held
    assert "qbench/py.typed" in held
    assert not [name for name in held if name.startswith(("tests/", "conf/"))]
