"""`make rename`: few files change, none of them in the library, and older runs and checkpoints are still read."""

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tests.support.command import QUICK, Process, newest, train
from tests.support.paths import ROOT
from tests.support.project import NAME as OLD
from tests.support.project import example

from cairn.hydra.schema import store

MOST_FILES = 12
"""Number of files whose content a rename may change."""
NEW = f"{OLD}_renamed"  # these tests also run in a renamed project
CITATION = """\
# A comment.
cff-version: 1.2.0
message: Cite it.
type: software
title: Cairn
authors:
  - name: Cairn contributors
version: 0.2.0
"""


def _load_script():
    spec = spec_from_file_location("rename_script", ROOT / "scripts" / "rename.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = _load_script()


def _run(command, cwd, check=True, **environment):
    who = {f"GIT_{role}_{what}": "t@t" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    environment = {**os.environ, **who, **quiet, **environment}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert not check or result.returncode == 0, f"{command} failed:\n{result.stdout}\n{result.stderr}"
    return result


def _git(root, *arguments, check=True):
    return _run(["git", *arguments], root, check)


def _commit(root, message):
    _git(root, "add", "-A")
    _git(root, "commit", "-q", "-m", message)


def _rename(root, *arguments, check=True):
    return _run([sys.executable, "scripts/rename.py", *arguments], root, check)


@pytest.fixture
def clone(tmp_path):
    """A clone of this tree in a git repository of its own, with everything committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("this tree is not a git repository")
    root = tmp_path / "clone"
    root.mkdir()
    listed = script.git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    files = [name for name in listed if name and (ROOT / name).is_file()]
    _run(["cp", "--parents", "-t", root, *files], ROOT)
    _git(root, "init", "-q", "-b", "main")
    _commit(root, "all")
    return root


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import pkg", "import new"),
        ("import pkg as p", "import new as p"),
        ("    from pkg import run", "    from new import run"),
        ("from pkg.data.sampler import S", "from new.data.sampler import S"),
        ('   "from pkg.data import Digits\\n",', '   "from new.data import Digits\\n",'),
        ('   "import pkg\\n",', '   "import new\\n",'),
        ("_target_: pkg.data.digits.Digits", "_target_: new.data.digits.Digits"),
        ("monkeypatch.setattr('pkg.data.x', 1)", "monkeypatch.setattr('new.data.x', 1)"),
        ("python -m pkg ls RUN", "python -m new ls RUN"),
        ('ROOT / "src" / "pkg" / "data"', 'ROOT / "src" / "new" / "data"'),
        ("see src/pkg/run.py", "see src/new/run.py"),
        ("`src/pkg`: your code", "`src/new`: your code"),
        ("└── src/pkg", "└── src/new"),
        ('name = "pkg"', 'name = "new"'),
        ("  verbose: [cairn, pkg]", "  verbose: [cairn, new]"),
    ],
)
def test_a_reference_is_renamed(before, after):
    assert script.rename_in(before, script.references("pkg", ["data", "run"]), "new") == after


@pytest.mark.parametrize(
    "text",
    [
        "[pkg]",
        "[pkg.urls]",
        "pkg: ${task_name}",
        "your own pkg: what it holds",
        "the files from pkg and the rest",
        "entity/pkg/name",
        "a pkg.",
        'cfg["pkg"]',
        "from pkg_tools import x",
        "from pkgs import x",
        "my.pkg.data",
        "/tmp/pkg.data",
        "pkg.json",
        "pkg.database",
        "src/pkg-old",
        "src/pkgs",
    ],
)
def test_the_same_word_elsewhere_stays(text):
    assert script.rename_in(text, script.references("pkg", ["data", "run"]), "new") == text


def test_the_table_of_moved_names_leads_to_the_newest_name():
    text = '[tool.cairn.moved]\n"cairn.models" = "a.models"\n\n[tool.ruff]\nline-length = 1\n'
    for old, new in (("a", "b"), ("b", "c"), ("c", "a")):
        text = script.add_moved(text, old, new)
    found = tomllib.loads(text)["tool"]
    assert found["cairn"]["moved"] == {"cairn.models": "a.models", "b": "a", "c": "a"}
    assert found["ruff"] == {"line-length": 1}


def test_a_missing_table_of_moved_names_is_added():
    text = script.add_moved('[project]\nname = "b"\n', "a", "b")
    assert tomllib.loads(text)["tool"]["cairn"]["moved"] == {"a": "b"}


def test_the_citation_becomes_that_of_the_project_and_keeps_cairn_as_a_reference():
    text = CITATION
    ours = yaml.safe_load(text)
    text = script.cite(text, "pkg", "new")
    found = yaml.safe_load(text)
    assert (found["title"], found["authors"]) == ("new", [{"name": "new contributors"}])
    assert "version" not in found
    assert found["references"] == [{key: ours[key] for key in ours if key not in ("cff-version", "message")}]
    own = script.cite(text.replace("- name: new contributors", "- name: Ada"), "new", "newer")
    assert yaml.safe_load(own) == {**found, "title": "newer", "authors": [{"name": "Ada"}]}
    assert script.cite("title: mine\nabstract: pkg\n", "pkg", "new") == "title: mine\nabstract: pkg\n"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("my-project", "letters"),
        ("1st", "letters"),
        ("", "letters"),
        ("../out", "letters"),
        ("café", "letters"),
        ("class", "keyword"),
        ("match", "keyword"),
        ("json", "standard library"),
        ("torch", "installed"),
        ("engine", "already"),
        ("train", "already"),
        ("cairn", "already"),
        (OLD, "already"),
    ],
)
def test_a_bad_name_is_refused(name, why):
    with pytest.raises(script.RenameError, match=why):
        script.check_name(name, ROOT)


def test_uncommitted_changes_are_refused_without_force(clone):
    (clone / "note.txt").write_text("mine")
    refused = _rename(clone, NEW, check=False)
    assert refused.returncode == 2
    assert "uncommitted" in refused.stderr
    assert (clone / "src" / OLD).is_dir()
    _rename(clone, NEW, "--force")
    assert (clone / "src" / NEW).is_dir()


def test_a_rename_changes_few_files_and_none_of_the_library(clone):
    listed = _rename(clone, NEW).stdout.split("\n  ")[1:]
    _git(clone, "add", "-A")
    status = [line.split("\t") for line in _git(clone, "diff", "--cached", "--name-status", "-M").stdout.splitlines()]
    moved = [names[-1] for kind, *names in status if kind == "R100"]
    changed = [names[-1] for kind, *names in status if kind != "R100"]
    print(f"{len(changed)} files changed:", *changed, sep="\n  ")
    assert len(changed) <= MOST_FILES
    assert sorted(changed) == sorted(name.strip() for name in listed)
    assert all(name.startswith(f"src/{NEW}/") for name in moved)
    assert [name for name in changed if name.startswith(("engine/", "src/"))] == []
    assert not (clone / "src" / OLD).exists()


def _targets(node):
    if isinstance(node, dict):
        yield from [node["_target_"]] if "_target_" in node else []
        node = list(node.values())
    for value in node if isinstance(node, list) else []:
        yield from _targets(value)


def test_the_configurations_of_a_renamed_project_compose_and_their_schemas_are_up_to_date(clone, monkeypatch):
    _rename(clone, NEW)
    monkeypatch.syspath_prepend(str(clone / "src"))
    assert store.stale(clone / "configs", clone / store.FOLDER) == []
    options = [f"{path.parent.name}={path.stem}" for path in (clone / "configs").glob("[dm]*/*.yaml")]
    found = set()
    with initialize_config_dir(str(clone / "configs"), version_base="1.3"):
        for option in ["+experiment=gpt", *(o for o in options if o.startswith(("data=", "model=")))]:
            found |= set(_targets(OmegaConf.to_container(compose("train", [option.lstrip("+")]), resolve=False)))
    assert [name for name in found if name.startswith(f"{OLD}.")] == []
    own = [name for name in found if name.startswith(f"{NEW}.")]
    assert own
    for name in own:
        assert (clone / "src" / f"{name.rpartition('.')[0].replace('.', '/')}.py").is_file()


LOAD = f"""
import importlib, pkgutil, sys
import cairn, {NEW}
for module in pkgutil.walk_packages({NEW}.__path__, "{NEW}."):
    importlib.import_module(module.name)
print(type(cairn.load_model(sys.argv[1])).__module__)
"""


@pytest.mark.slow
def test_a_run_and_a_checkpoint_from_before_the_rename_are_read(clone, tmp_path):
    example("models.classifier"), example("data.digits")
    run = tmp_path / "run"
    train(run, *QUICK, "checkpoint=interval", "checkpoint.save_interval=10", "trainer.max_epochs=1", "test=false")
    assert f"{OLD}.models" in (run / "config.yaml").read_text()
    _rename(clone, NEW)
    # An installed copy, or this tree, must not hide a forgotten reference: importing the old name fails.
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap" / f"{OLD}.py").write_text("raise ImportError('the old name of the package')")
    path = os.pathsep.join(map(str, [tmp_path / "trap", clone / "engine" / "src", clone / "src"]))
    environment = {"PYTHONPATH": path, "PROJECT_ROOT": str(clone)}
    file = shutil.copy(run / "checkpoints" / newest(run), tmp_path)
    resume = [str(clone / "train.py"), f"resume={run}", "trainer.max_epochs=2", "trainer.enable_progress_bar=false"]
    loads = Process(["-c", LOAD, file], fresh=True, cwd=clone, **environment)
    resumes = Process(resume, fresh=True, cwd=clone, **environment)  # at the same time: a start takes seconds
    assert f"{NEW}.models.classifier" in loads.end()
    output = resumes.end()
    assert "epoch_001_batch_000020" in newest(run), output


def test_a_newer_library_merges_into_a_renamed_project_without_a_conflict(clone):
    _git(clone, "checkout", "-q", "-b", "upstream")
    _edit(clone / "engine" / "src" / "cairn" / "units.py", "\nNEWER = 1\n")
    (clone / "engine" / "src" / "cairn" / "newer.py").write_text('"""A module that a later version adds."""\n')
    _git(clone, "rm", "-q", "engine/src/cairn/study/page.py")
    _commit(clone, "A later version of the library")
    _edit(clone / "Makefile", "\n# A later version of the template.\n")
    _edit(clone / "engine" / "pyproject.toml", "\n# A later version of the package.\n")
    _edit(clone / "configs" / "trainer" / "default.yaml", "# A later version of the configuration.\n")
    _commit(clone, "A later version of the template")

    _git(clone, "checkout", "-q", "main")
    _rename(clone, NEW)
    _commit(clone, "Rename the package")
    _edit(clone / "src" / NEW / "__init__.py", "\nMINE = 1\n")
    (clone / "src" / NEW / "own.py").write_text('"""My own module."""\n')
    _edit(clone / "configs" / "train.yaml", "# My own settings.\n")
    _edit(clone / "train.py", "\n# My own step.\n")
    _commit(clone, "My own work")

    merged = _git(clone, "merge", "--no-edit", "upstream", check=False)
    assert merged.returncode == 0, merged.stdout
    assert "NEWER" in (clone / "engine" / "src" / "cairn" / "units.py").read_text()
    assert (clone / "engine" / "src" / "cairn" / "newer.py").is_file()
    assert not (clone / "engine" / "src" / "cairn" / "study" / "page.py").exists()
    assert "A later version" in (clone / "Makefile").read_text()
    assert "My own step" in (clone / "train.py").read_text()
    assert (clone / "src" / NEW / "own.py").is_file()
    assert _git(clone, "ls-files", f"src/{OLD}").stdout == ""


def _edit(path, text):
    path.write_text(path.read_text() + text)
