"""The command that installs what an optional part of the library needs."""

from importlib import metadata

import pytest

from cairn import extras

REQUIRES = [
    "torch>=2.8",
    'hydra-core<1.5,>=1.3; extra == "hydra"',
    'omegaconf>=2.3; extra == "hydra"',
    'cairn-checkpoint[hydra]; extra == "slurm"',
    'submitit>=1.5; extra == "slurm"',
    "cairn-checkpoint[hydra,slurm]; extra == 'all'",
]


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("hydra", "pip install 'hydra-core<1.5,>=1.3' 'omegaconf>=2.3'"),
        ("slurm", "pip install 'hydra-core<1.5,>=1.3' 'omegaconf>=2.3' 'submitit>=1.5'"),
        ("all", "pip install 'hydra-core<1.5,>=1.3' 'omegaconf>=2.3' 'submitit>=1.5'"),
    ],
)
def test_the_command_names_packages_and_not_the_library(monkeypatch, extra, command):
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES)
    assert extras.how_to_install(extra) == command


def test_a_library_that_is_used_from_its_folder_is_installed_from_there(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    command = extras.how_to_install("wandb")
    assert command.startswith("pip install '/")
    assert command.endswith("/engine[wandb]'")


def test_an_installation_from_before_there_was_an_extra_is_renewed(monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES)
    command = extras.how_to_install("export")
    assert command.startswith("pip install '/")
    assert command.endswith("/engine[export]'")
