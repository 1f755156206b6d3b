"""The result of a job is read from submitit's pickle without looking up anything that the pickle names."""

import os
from decimal import Decimal

import cloudpickle
import numpy as np
import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from cairn.hydra.sweep import result_file


class Evil:
    """Object that creates a directory when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def result(value):
    """The pickle of a job that returned a value, as submitit writes it."""
    cfg = OmegaConf.create({"a": [1, {"b": "${a}"}]})
    job = JobReturn(overrides=["a=1"], cfg=cfg, hydra_cfg=cfg, working_dir="x", task_name="train")
    job.status, job.return_value = JobStatus.COMPLETED, value
    return cloudpickle.dumps(("success", job))


@pytest.mark.parametrize("value", [0.5, 3, True, "text", None, [1.0, 2.0], (0.1, [0.2])])
def test_a_plain_value_is_read(tmp_path, value):
    (tmp_path / "r").write_bytes(result(value))
    assert result_file.read(tmp_path / "r") == ("success", value)


@pytest.mark.parametrize("value", [np.float64(0.5), Decimal(1), [Decimal(1)], {1}, lambda: 0])
def test_another_value_is_left_to_the_record_of_the_run(tmp_path, value):
    (tmp_path / "r").write_bytes(result(value))
    assert result_file.read(tmp_path / "r") == ("success", None)


def test_an_error_is_read(tmp_path):
    (tmp_path / "r").write_bytes(cloudpickle.dumps(("error", "Traceback\nValueError: no")))
    assert result_file.read(tmp_path / "r") == ("error", "Traceback\nValueError: no")


def test_nothing_is_run(tmp_path):
    evil = Evil(tmp_path / "made")
    for content in (evil, ("success", evil), ("error", evil), ("success", [evil, {"a": evil}])):
        (tmp_path / "r").write_bytes(cloudpickle.dumps(content))
        try:
            result_file.read(tmp_path / "r")
        except result_file.Unreadable:
            continue
    (tmp_path / "r").write_bytes(result(evil))
    assert result_file.read(tmp_path / "r") == ("success", None)
    assert not (tmp_path / "made").exists()
    cloudpickle.loads((tmp_path / "r").read_bytes())
    assert (tmp_path / "made").exists(), "a reader that looks names up runs it"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\x80", b"\x80\x04.", b"N.", b"cos\nsystem\n(S'touch made'\ntR.", b"\x82\x01.", b"Pid\n."),
        b"\x80\x04Kr\xff\xff\xff\xff.",  # claims four billion objects
        cloudpickle.dumps(("waiting", 1)),
        cloudpickle.dumps(["success", 1]),
    ],
)
def test_what_is_not_a_result_is_refused(tmp_path, content):
    (tmp_path / "r").write_bytes(content)
    with pytest.raises(result_file.Unreadable):
        result_file.read(tmp_path / "r")
