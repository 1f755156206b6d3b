"""A directory that is not the same on all nodes is refused on all ranks, by a sentence that names the nodes."""

import multiprocessing

import pytest
from tests.lightning.test_agreement import on_ranks

from cairn.errors import ConfigError
from cairn.lightning import shared

pytestmark = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="forks ranks")
CURE = "Or gather them."


def checked(tmp_path, directories):
    """Return what each rank raises, where each of them has its own directory under the name."""

    def talk(agreement, rank):
        shared.socket.gethostname = lambda: "ab"[rank // 2]
        try:
            shared.check(agreement, rank, directories[rank], CURE, patience_s=0.1)
        except ConfigError as error:
            return str(error), error.parameter
        return None

    return on_ranks(tmp_path, talk, len(directories))


def test_one_directory_passes_and_nothing_is_left_in_it(tmp_path):
    assert checked(tmp_path, [tmp_path / "run"] * 2) == [None] * 2
    assert list((tmp_path / "run").iterdir()) == []


def test_local_disks_are_refused_on_all_ranks(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    found = checked(tmp_path, [one, one, other, other])
    text, parameter = found[0]
    assert found == [(text, parameter)] * 4
    assert text.startswith(f"directory={one} is not the same for all processes: what rank 0 on a writes there is not")
    assert text.endswith(f"seen by ranks 2-3 on b. Choose a directory on a file system that they share. {CURE}")
    assert parameter == "directory"
    assert list(one.iterdir()) == []


def test_a_directory_that_rank_0_cannot_write_is_refused_on_all_ranks(tmp_path):
    (tmp_path / "file").touch()
    found = checked(tmp_path, [tmp_path / "file"] * 2)
    assert found[0] == found[1]
    assert "cannot be written" in found[0][0]
