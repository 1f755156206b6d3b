"""A checkpoint that a later version of Cairn wrote: all commands and the start say so, and nothing touches it."""

import json
import os

import pytest
from tests.support.cli import cairn
from tests.support.shards import commit_shards
from tests.support.values import age_manifest, commit, draft, small_file

from cairn.errors import ResumeError, SaveError
from cairn.policy.keep import Latest
from cairn.store import beginning, earlier, names, resume
from cairn.store import commit as committing
from cairn.store.catalog import Catalog
from cairn.store.commit import CommitPlan
from cairn.store.history import History

WHY = "its manifest has format 4, and this version of Cairn reads up to 3: update Cairn"


def as_file(folder, number):
    return commit(folder, number).name


def as_shards(folder, number):
    return commit_shards(folder, number).name


def aside(folder, number):
    """Its replacement by that version was interrupted between the two renames."""
    name = commit(folder, number).name
    (folder / name).rename(folder / names.before_name(name))
    return name


def aside_with_successor(folder, number):
    """Its replacement was interrupted before the manifest."""
    name = aside(folder, number)
    (folder / name).write_bytes(bytes(small_file(9)))
    return name


def elsewhere(folder, number):
    """Its data have another name, as a later format may have it."""
    name = commit(folder, number).name
    (folder / name).rename(folder / name.replace(".ckpt", ".data"))
    return name


FORMS = [as_file, as_shards, aside, aside_with_successor, elsewhere]


def state(folder):
    return sorted((path, os.lstat(path).st_mtime_ns, os.lstat(path).st_ino) for path in folder.rglob("*"))


@pytest.fixture(params=[1, 3], ids=["older", "newest"])
def number(request):
    """Which of the four checkpoints of the run it is."""
    return request.param


@pytest.fixture(params=FORMS, ids=lambda form: form.__name__)
def newer(request, run, number):
    """Name of a checkpoint of the run that a later version has written."""
    folder = run.checkpoints()
    name = Catalog(folder).committed()[number].name
    committing.delete_checkpoint(folder, name)
    assert request.param(folder, number) == name
    age_manifest(folder, name)
    return name


def printed(capsys):
    found = capsys.readouterr()
    return " ".join(f"{found.out} {found.err}".split())


def test_commands_say_so_and_change_nothing(run, newer, capsys):
    folder = run.checkpoints()
    before = state(folder)
    cairn("ls", run.path)
    assert f"not usable: {newer}, {WHY}" in printed(capsys)
    cairn("verify", run.path, "--json", expect=1)
    found = {item["file"]: item for item in json.loads(capsys.readouterr().out)}
    assert (found[str(folder / newer)]["state"], found[str(folder / newer)]["why"]) == ("newer", WHY)
    others = {item["state"] for path, item in found.items() if not path.endswith((newer, names.LAST, names.BEST))}
    assert others == {"whole"}, "nothing else is said to be a leftover"
    cairn("prune", run.path, "--yes", expect=1)
    assert f"{folder / newer} cannot be used: {WHY}. Nothing was deleted." in printed(capsys)
    assert state(folder) == before


def test_a_start_says_so_and_changes_nothing(run, newer, number):
    folder = run.checkpoints()
    before, own = state(folder), History(folder, [Latest(1)], None)
    with pytest.raises(ResumeError, match=f"{newer} cannot be used: {WHY}"):
        own.take_over("toy", resume.find_resume_point(folder))
    other = Catalog(folder).committed()[0]
    with pytest.raises(ResumeError, match=f"{newer} cannot be used: {WHY}"):  # from one that the user names
        own.take_over("toy", beginning.beginning(folder, folder / other.name, None, None).point)
    assert not [path for path in Catalog(folder).leftovers() if newer.removesuffix(".ckpt") in path.name]
    assert state(folder) == before
    if (folder / newer).exists():
        with pytest.raises(SaveError, match=f"{newer} was not written: a later version of Cairn wrote the one that"):
            committing.write(CommitPlan(folder, draft(number)), small_file(5))
        assert {item for item in state(folder) if newer[:20] in item[0].name} <= {*before}
        assert not earlier.waiting(folder)


def test_one_is_named_by_the_commands_for_single_checkpoints(run, capsys):
    folder = run.checkpoints()
    name = Catalog(folder).committed()[3].name
    age_manifest(folder, name)
    for target in (name, names.LAST):
        cairn("verify", folder / target, expect=1)
        assert f"not verified {name} {WHY}" in printed(capsys)
        cairn("show", folder / target, expect=1)
        assert f"{folder / name} cannot be used: {WHY}." in printed(capsys)
    cairn("verify", run.path, expect=1)
    assert f"not verified {names.LAST} it points to {name}, which a later version of Cairn wrote" in printed(capsys)
