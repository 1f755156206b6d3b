"""constraints.txt pins everything that requirements.txt installs; `make lock` writes it."""

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.support.package import closure
from tests.support.paths import ROOT


def _load_script():
    spec = spec_from_file_location("lock_script", ROOT / "scripts" / "lock.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lock = _load_script()
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINNED = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in LINES}
REQUIREMENTS = (ROOT / "requirements.txt").read_text()
DIRECT = [Requirement(text) for text in re.findall(r"^\w[^#\n]*", REQUIREMENTS, re.MULTILINE)]
BUILDS_OF_TORCH = ("nvidia-", "cuda-", "triton")
"""Packages that only some builds of torch need, in exact versions."""


def test_the_lock_holds_versions_only():
    assert [line for line in LINES if not re.fullmatch(r"[a-z0-9-]+==[\w.!]+", line)] == []
    assert list(PINNED) == sorted(PINNED)


def test_the_installation_uses_the_lock():
    assert "-c constraints.txt" in REQUIREMENTS.splitlines()


@pytest.mark.parametrize("requirement", DIRECT, ids=str)
def test_the_lock_agrees_with_the_requirements(requirement):
    assert requirement.specifier.contains(PINNED[canonicalize_name(requirement.name)])


@pytest.mark.skipif(sys.platform != "linux", reason="the lock is made on Linux; other systems need other packages")
def test_every_package_that_is_needed_in_turn_is_pinned():
    needed = {canonicalize_name(d.metadata["Name"]) for d in closure(["cairn-checkpoint[all]", *map(str, DIRECT)])}
    missing = needed - set(PINNED) - {"cairn-checkpoint"}
    assert {name for name in missing if not name.startswith(BUILDS_OF_TORCH)} == set(), "run: make lock"


def test_a_build_and_a_folder_are_not_part_of_a_pin():
    def package(name, version, **where):
        return {"metadata": {"name": name, "version": version}, "download_info": where or {"archive_info": {}}}

    report = [package("torch", "2.13.0+cpu"), package("Some_Pkg.x", "1.0.post1"), package("cairn", "1", dir_info={})]
    assert lock.pins(report) == ["some-pkg-x==1.0.post1", "torch==2.13.0"]


def test_a_new_lock_does_not_depend_on_the_old_one():
    assert lock.unlocked("# a\n-c constraints.txt\n-e .\ntorch==2\n") == "# a\n-e .\ntorch==2\n"
