"""Verification of each file in a checkpoint directory, and what a prune may delete."""

import pytest
import torch
from tests.support.values import DAMAGES, commit, drop_manifest, flip_byte, names_of, saved

from cairn.errors import CheckpointError
from cairn.policy.keep import Best, Latest
from cairn.store import audit, names
from cairn.store.commit import move_links_and_delete


@pytest.fixture
def three(tmp_path):
    """A directory with three checkpoints and the links, and these checkpoints."""
    items = [commit(tmp_path, number, score) for number, score in enumerate([0.5, 0.3, 0.4])]
    move_links_and_delete(tmp_path, {names.LAST: items[2].name, names.BEST: items[1].name}, ())
    return tmp_path, items


def states(directory):
    return {finding.path.name: finding.state for finding in audit.check_directory(directory)}


def test_all_files_of_an_undamaged_directory_are_whole(three):
    directory, items = three
    found = audit.check_directory(directory)
    assert [finding.path.name for finding in found] == [*names_of(items), names.LAST, names.BEST]
    assert {finding.state for finding in found} == {"whole"}
    assert found[0].why == f"{items[0].digest[: len('crc32-sha256:') + 12]}..."


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_reported_with_the_reason(three, damage):
    directory, items = three
    break_it, why = DAMAGES[damage]
    break_it(directory, items[0].name)
    (broken,) = [finding for finding in audit.check_directory(directory) if finding.state == "broken"]
    assert broken.path.name == items[0].name
    assert why in broken.why
    alone = audit.check_file(directory / items[0].name)
    assert alone.state == ("whole" if damage == "no manifest" else "broken"), "by the checksums inside it"


def test_an_interrupted_save_is_unfinished_and_not_broken(three):
    directory, items = three
    (directory / names.temp_name(saved(9).name)).write_text("half")
    drop_manifest(directory, commit(directory, 3).name)
    assert {name for name, state in states(directory).items() if state == "unfinished"} == {
        names.temp_name(saved(9).name),
        saved(3).name,
    }
    drop_manifest(directory, items[2].name)
    assert states(directory)[items[2].name] == "unfinished", "nothing is newer: it may never have been finished"


def test_links_are_verified(three):
    directory, items = three
    newer = commit(directory, 3)
    (directory / items[1].name).unlink()
    found = {finding.path.name: finding for finding in audit.check_directory(directory)}
    assert found[names.BEST].state == "broken"
    assert found[names.BEST].why == f"it points to {items[1].name}, which does not exist"
    assert found[names.LAST].state == "unfinished"
    assert f"{newer.name} is newer" in found[names.LAST].why


def test_a_run_that_saves_and_deletes_meanwhile_is_not_said_to_be_corrupt(three, monkeypatch):
    directory, items = three
    read, num_read = audit.verify_file, []

    def verify_file(path):
        num_read.append(path.name)
        if len(num_read) == 1:  # a save of the run, which keeps the newest two
            saved = commit(directory, 3)
            move_links_and_delete(directory, {names.LAST: saved.name, names.BEST: None}, [items[0].name, items[1].name])
        return read(path)

    monkeypatch.setattr(audit, "verify_file", verify_file)
    found = audit.check_directory(directory)
    assert [item.path.name for item in found] == [items[2].name, saved(3).name, names.LAST]
    assert {item.state for item in found} == {"whole"}
    assert num_read.count(items[2].name) == 1, "nothing is read twice"


def test_a_file_of_another_name_is_verified_by_its_own_checksums(three, tmp_path):
    directory, items = three
    copy = tmp_path / "model.ckpt"
    copy.write_bytes((directory / items[1].name).read_bytes())
    assert audit.check_file(copy).state == "whole"
    place = copy.read_bytes().find(torch.full((3,), 1.0).numpy().tobytes())
    data = bytearray(copy.read_bytes())
    data[place] ^= 1
    copy.write_bytes(data)
    assert audit.check_file(copy).state == "broken"
    (tmp_path / "text.ckpt").write_text("weights, honestly")
    assert "not a file that torch.save wrote" in audit.check_file(tmp_path / "text.ckpt").why
    with pytest.raises(CheckpointError, match="There is no file"):
        audit.check_file(tmp_path / "gone.ckpt")


# What may go


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ([Latest(1), Best(1)], [1, 2]),
        ([Latest(0), Best(0)], [1, 2]),  # the newest and the best stay whatever is asked
        ([Latest(-1), Best(0)], [0, 1, 2]),
        ([Latest(1), Best(-1)], [0, 1, 2]),
    ],
)
def test_prune_deletes_what_no_rule_keeps(three, rules, kept):
    directory, items = three
    plan = audit.plan_prune(directory, rules, "min")
    assert [item.number for item in plan.kept] == kept
    assert sorted(names_of([*plan.kept, *plan.to_delete])) == names_of(items)
    assert plan.broken == []


def test_without_a_metric_prune_keeps_no_best(three):
    assert [item.number for item in audit.plan_prune(three[0], [Latest(1)], None).kept] == [2]


def test_a_damaged_checkpoint_does_not_take_the_place_of_an_intact_one(three):
    directory, items = three
    flip_byte(directory, items[2].name)
    flip_byte(directory, items[1].name)
    plan = audit.plan_prune(directory, [Latest(1), Best(1)], "min")
    assert (plan.kept, plan.to_delete) == (items[:1], [])
    assert {item.path.name for item in plan.broken} == {items[1].name, items[2].name}
