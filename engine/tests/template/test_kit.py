"""The files for GitHub, editors and other services are valid, and agree with the rest of the repository."""

import json
import re
import subprocess
import tomllib

import pytest
import yaml
from hydra import compose, initialize_config_dir
from packaging.requirements import Requirement
from tests.support import actionlint, kit
from tests.support.paths import ENGINE, ROOT, TRANSFORMERS

import cairn

pytestmark = pytest.mark.skipif(
    not (ROOT / "src" / "project").is_dir(), reason="in a renamed project, these files are its owner's"
)
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKE_TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
EDITOR_FILES = {"launch.json", "settings.json", "extensions.json", "tasks.json"}
MALWARE = {"2.6.2", "2.6.3"}


def _read_yaml(path):
    return yaml.safe_load((ROOT / path).read_text())


def _read_json(path):
    return json.loads((ROOT / path).read_text())


def _pins(path):
    return dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / path).read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("github-workflows", ".github/workflows/*.yml"),
        ("dependabot", ".github/dependabot.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("citation-file-format", "CITATION.cff"),
    ],
)
def test_a_file_for_github_follows_its_schema(schema, pattern):
    kit.require_packages("check_jsonschema")
    from check_jsonschema import main
    from click.testing import CliRunner

    files = [str(path) for path in ROOT.glob(pattern)]
    assert files
    result = CliRunner().invoke(main, ["--builtin-schema", f"vendor.{schema}", *files])
    assert result.exit_code == 0, result.output


def test_actionlint_finds_nothing_in_the_workflows_and_something_in_a_broken_one(tmp_path):
    kit.require(actionlint.why_not())
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOWS[0].read_text().replace("matrix.package", "matrix.packages"))
    found = actionlint.lint(*WORKFLOWS, broken)
    assert [line for line in found if not line.startswith(str(broken))] == []
    assert "packages" in "".join(found)


def test_the_hooks_are_valid_and_run_the_programs_of_the_environment():
    for repository in _read_yaml(".pre-commit-config.yaml")["repos"]:
        assert repository["repo"] == "local", "a second pin of a program would drift from requirements.txt"
        for hook in repository["hooks"]:
            assert hook["language"] == "system"
            assert hook["entry"].startswith(".venv/bin/")
    kit.require_packages("pre_commit")
    from pre_commit.clientlib import load_config

    load_config(str(ROOT / ".pre-commit-config.yaml"))


def test_actions_are_pinned_to_a_commit_with_its_version():
    uses = [line.strip() for path in WORKFLOWS for line in path.read_text().splitlines() if "uses:" in line]
    assert uses
    assert [line for line in uses if not re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)] == []


def test_ci_installs_neither_malware_nor_another_actionlint():
    (job,) = [j for j in _read_yaml(".github/workflows/ci.yml")["jobs"].values() if "strategy" in j]
    assert job["continue-on-error"] is True
    specs = [Requirement(r) for entry in job["strategy"]["matrix"]["include"] for r in entry["requirements"].split()]
    (lightning,) = [spec for spec in specs if spec.name == "lightning"]
    assert [version for version in MALWARE if version in lightning.specifier] == []
    assert f"ACTIONLINT={actionlint.VERSION} " in (ROOT / ".ci" / "run").read_text()


def test_ci_has_a_new_folder_for_a_new_version_of_transformers():
    (pin,) = [line for line in (ENGINE / "tests" / "transformers.txt").read_text().split() if "transformers==" in line]
    version = pin.removeprefix("transformers==")
    assert f"TRANSFORMERS={version} " in (ROOT / ".ci" / "run").read_text()
    assert TRANSFORMERS.name == f"cairn-transformers-{version}"


def test_dependabot_covers_each_file_of_pins_and_skips_what_the_library_refuses():
    (pip,) = [entry for entry in _read_yaml(".github/dependabot.yml")["updates"] if entry["package-ecosystem"] == "pip"]
    with_pins = {path.parent for path in [ROOT / "requirements.txt", *ENGINE.glob("*/requirements.txt")]}
    assert {(ROOT / folder.lstrip("/")).resolve() for folder in pip["directories"]} == with_pins
    ignored = {entry["dependency-name"]: entry["versions"] for entry in pip["ignore"]}
    assert set(ignored["lightning"]) >= MALWARE
    assert ignored["pytorch-lightning"] == ignored["lightning"]
    project = tomllib.loads((ENGINE / "pyproject.toml").read_text())["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        for limit in (spec.version for spec in requirement.specifier if spec.operator == "<"):
            assert f">={limit}" in ignored.get(requirement.name, []), f"{requirement} allows no {limit}: ignore it"


def test_packages_of_the_kit_are_pinned_once():
    pins = _pins("engine/website/requirements.txt")
    lines = (ENGINE / "website" / "requirements.txt").read_text().splitlines()
    assert len(pins) == len([line for line in lines if line and not line.startswith("#")])
    assert set(pins) & set(_pins("constraints.txt")) == set()


def test_the_editor_and_the_container_agree():
    container = _read_json(".devcontainer/devcontainer.json")
    assert (
        container["customizations"]["vscode"]["extensions"] == _read_json(".vscode/extensions.json")["recommendations"]
    )
    assert container["postCreateCommand"].split() == ["make", "install"]
    assert _read_json(".vscode/settings.json")["python.testing.pytestArgs"] == ["tests"]


def test_what_the_editor_launches_exists():
    launches = _read_json(".vscode/launch.json")["configurations"]
    programs = [launch.get("program", "") for launch in launches]
    assert {program.removeprefix("${workspaceFolder}/") for program in programs if program} == {"train.py"}
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        for launch in launches:
            if "program" in launch:
                compose("train", launch.get("args", []))
    tasks = _read_json(".vscode/tasks.json")["tasks"]
    assert {task["command"] for task in tasks} == {"make"}
    assert {target for task in tasks for target in task["args"]} <= MAKE_TARGETS


def test_git_ignores_all_but_the_shared_files_of_the_editor():
    if not (ROOT / ".git").exists():
        pytest.skip("this tree is not a git repository")
    names = [*EDITOR_FILES, "mine.code-workspace", "launch.local.json"]
    command = ["git", "check-ignore", "--no-index", *(f".vscode/{name}" for name in names)]
    ignored = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    assert set(ignored) == {".vscode/mine.code-workspace", ".vscode/launch.local.json"}
    assert {path.name for path in (ROOT / ".vscode").iterdir()} >= EDITOR_FILES


def test_the_citation_names_this_version_and_license():
    citation = _read_yaml("CITATION.cff")
    assert (citation["title"], citation["version"]) == ("Cairn", cairn.__version__)
    assert citation["license"] == tomllib.loads((ENGINE / "pyproject.toml").read_text())["project"]["license"]
