"""The library as a user installs it: a wheel, in an environment that holds only its base dependencies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from tests.support.paths import ENGINE


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this tree, as `pip wheel ./engine --no-deps` does.

    Args:
        folder: An empty folder for a copy of the sources and for the wheel. A build inside of engine/ would leave files
            there, and the next build would ship them.

    Returns:
        The path of the wheel.
    """
    sources = folder / "engine"
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ENGINE / "src", sources / "src", ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ENGINE / name, sources / name)
    # Without isolation: pip would download the build system, and tests do not need a network.
    _pip("wheel", str(sources), "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
    (wheel,) = folder.glob("*.whl")
    return wheel


def base_environment(folder: Path, wheel: Path) -> Path:
    """Make a virtual environment with the wheel and its base dependencies, and nothing else.

    The dependencies are links to the packages of the running environment: nothing is downloaded.

    Args:
        folder: Where the environment will be.
        wheel: The library.

    Returns:
        The folder of the environment.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    project = tomllib.loads((ENGINE / "pyproject.toml").read_text())["project"]
    for distribution in closure(project["dependencies"]):
        for name in _top_level(distribution):
            if not (packages / name).exists():
                (packages / name).symlink_to(str(distribution.locate_file(name)))
    _pip("--python", str(folder / "bin" / "python"), "install", "--no-deps", "--no-index", str(wheel))
    return folder


def run_in(
    environment: Path, *command: str, script: str | None = None, cwd: Path | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment, without the import path of the tests.

    Args:
        environment: What `base_environment` returned.
        command: The name of a program in the environment's `bin` folder and its arguments.
        script: Python code, instead of a command.
        cwd: The working directory.
        check: Raise if the exit code is not 0.
    """
    program, *arguments = command or ("python", "-c", script or "")
    result = subprocess.run(
        [str(environment / "bin" / program), *arguments],
        env=_variables(),
        cwd=cwd,
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


def closure(requirements: list[str]) -> Iterator[metadata.Distribution]:
    """Yield the installed distributions that the requirements name, and those that these need in turn."""
    waiting, seen = [Requirement(text) for text in requirements], set()
    while waiting:
        requirement = waiting.pop()
        distribution = metadata.distribution(requirement.name)
        yield distribution
        for extra in ("", *requirement.extras):
            if (requirement.name, extra) in seen:
                continue
            seen.add((requirement.name, extra))
            needed = map(Requirement, distribution.requires or ())
            waiting += [other for other in needed if other.marker is None or other.marker.evaluate({"extra": extra})]


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True, env=_variables())


def _variables() -> dict[str, str]:
    """Return the environment variables without the import path of the tests, where the library seems installed."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


def _top_level(distribution: metadata.Distribution) -> set[str]:
    """Return the files and folders in site-packages that belong to the distribution."""
    return {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
