"""Names of jobs: valid on any file system and unique, and the overrides that distinguish a job."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tests.support.paths import ENGINE

from cairn.hydra.sweep.job_name import job_dir, special, varied_in_vain


def test_overrides_that_are_a_valid_name_are_not_changed():
    assert job_dir("checkpoint.save_interval=50,seed=1") == "checkpoint.save_interval=50,seed=1"


def test_slashes_are_replaced():
    assert job_dir("data.files=/a/b").startswith("data.files=_a_b-")
    assert job_dir("data.files=/a/b") != job_dir("data.files=/a_b") != job_dir("data.files=_a_b")


def test_a_long_override_is_shortened_and_the_others_stay_readable():
    name = job_dir(f"+callbacks.x={{_target_:{'a' * 250},at:[1,2]}},checkpoint.save_interval=50,seed=1")
    assert name.startswith("+callbacks.x={_target_:aaa")
    assert ",checkpoint.save_interval=50,seed=1-" in name


@pytest.mark.parametrize("letter", ["a", "ü", "数"])
def test_many_short_overrides_are_shortened(letter):
    many = [f"+note_{number:02}={letter * 4}" for number in range(20)]
    first, second = ",".join([*many, "seed=1"]), ",".join([*many, "seed=2"])
    assert len(first.encode()) > 255
    assert len({job_dir(first), job_dir(second), job_dir(first[:-1])}) == 3
    assert job_dir(first) == job_dir(first)
    assert len(job_dir(first).encode()) <= 255
    assert job_dir(first).startswith(f"+note_00={letter * 4},+note_01=")


@pytest.mark.parametrize("length", [239, 240, 241, 255, 256, 300])
def test_a_name_is_shortened_only_if_it_is_too_long(length):
    many = ",".join(f"a.b_{number:02}=1" for number in range(40))[:length]
    assert (job_dir(many) == many) == (length <= 240)


@pytest.mark.parametrize(
    ("overrides", "of_sweep", "expected"),
    [
        (["model=mlp", "seed=2"], ["model=mlp", "seed=1,2,3"], ["seed=2"]),
        (["+a=1", "seed=2"], ["+a=1,2", "seed=range(1,3)"], ["+a=1", "seed=2"]),
        (["+at=$\\{seed\\}", "x='1,2'", "seed=2"], ["+at=${seed}", "x='1,2'", "seed=1,2"], ["seed=2"]),
        (["model=mlp", "seed=2"], ["model=mlp"], ["seed=2"]),  # varied by hydra.sweeper.params
        (["seed=4", "seed=2"], ["seed=4", "seed=1,2"], ["seed=2"]),
        (["model=mlp"], ["model=mlp"], ["model=mlp"]),
        (["model=mlp", "seed=2"], [], ["model=mlp", "seed=2"]),  # a sweeper that has recorded nothing
        (["lr=0.1", "pause_at=3ep"], ["lr=0.1,0.2", "pause_at=3ep"], ["lr=0.1"]),
        (["metric=x", "lr=0.1", "++pause_at=3ep"], ["metric=x", "lr=interval(0,1)"], ["lr=0.1"]),  # of a search
        ([], [], []),
    ],
)
def test_the_overrides_that_a_sweep_varies_distinguish_its_jobs(overrides, of_sweep, expected):
    assert special(overrides, of_sweep) == expected


def test_a_job_without_overrides_has_a_name():
    assert job_dir("") == "defaults"


@given(st.text(min_size=1, max_size=400).filter(lambda text: "\0" not in text))
def test_any_overrides_are_one_short_name(overrides):
    name = job_dir(overrides)
    assert "/" not in name
    assert 0 < len(name.encode()) <= 255
    assert name not in (".", "..")
    assert name == job_dir(overrides)


@given(st.lists(st.text("ab/=,", min_size=1, max_size=6), min_size=2, max_size=8, unique=True))
def test_different_overrides_have_different_names(overrides):
    assert len({job_dir(item) for item in overrides}) == len(overrides)


MIRROR_KEYS = [f"checkpoint.mirror{more}" for more in ("", "_every", "_keep", "_queue", "_wait", "_grace")]


def sweep(task, subdir="${job_dir:${hydra.job.override_dirname}}", params=None):
    packaged = OmegaConf.load(ENGINE / "src" / "cairn" / "hydra" / "configs" / "hydra" / "default.yaml")
    hydra = {
        "job": packaged.job,
        "sweep": {"subdir": subdir},
        "sweeper": {"params": params},
        "overrides": {"task": task},
    }
    return OmegaConf.create({"hydra": hydra})


def test_where_checkpoints_are_copied_to_is_not_part_of_the_names_of_jobs():
    names = sweep([]).hydra.job.config.override_dirname
    assert sorted(names.exclude_keys) == sorted([*MIRROR_KEYS, "pause_at"])
    packaged = OmegaConf.load(ENGINE / "src" / "cairn" / "hydra" / "configs" / "checkpoint" / "base.yaml")
    assert [f"checkpoint.{key}" for key in packaged if key.startswith("mirror")] == MIRROR_KEYS


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (sweep(["checkpoint.mirror_every=1,2", "seed=1,2"]), "checkpoint.mirror_every=1,2"),
        (sweep(["++checkpoint.mirror=s3://a/x,s3://b/x"]), "++checkpoint.mirror=s3://a/x,s3://b/x"),
        (sweep([], params={"checkpoint.mirror_keep": "choice(1,2)"}), "checkpoint.mirror_keep=choice(1,2)"),
        (sweep(["checkpoint.mirror=s3://a/x", "seed=1,2"]), ""),
        (sweep(["checkpoint.mirror_every=1,2"], subdir="${hydra.job.num}"), ""),
        (sweep(["checkpoint.mirror_every=[1"]), ""),  # Hydra reports it
    ],
)
def test_jobs_that_would_share_a_directory_are_named(config, expected):
    assert varied_in_vain(config) == expected
