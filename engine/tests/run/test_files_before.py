"""A refused start leaves the files of its run as they were."""

from cairn.run.files_before import FilesBefore


def test_changed_files_are_put_back_with_their_times_and_new_ones_are_removed(tmp_path):
    changed, same, new, gone = (tmp_path / name for name in ("changed", "same", "new", "gone"))
    for path in (changed, same, gone):
        path.write_text(path.name)
    times = {path: path.stat().st_mtime_ns for path in (changed, same)}
    inode = same.stat().st_ino
    before = FilesBefore([changed, same, new, gone])
    changed.write_text("other")
    new.write_text("new")
    gone.unlink()
    before.put_back()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        name: name for name in ("changed", "same", "gone")
    }
    assert {path: path.stat().st_mtime_ns for path in (changed, same)} == times
    assert same.stat().st_ino == inode, "a file that has not changed is not written"


def test_what_cannot_be_put_back_is_named(tmp_path, caplog):
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    path.write_text("text")
    before = FilesBefore([path])
    path.unlink()
    path.parent.rmdir()
    before.put_back()
    assert f"A refused start has changed {path}, which could not be restored" in caplog.text
