"""A planted fault of each kind is found and named with its cure, and a project that follows the cure is exact."""

import pytest
from tests.support.faults import CURES, FAULTS

from cairn.testing import proof, stopped_copy
from cairn.testing.proof_run import ProofRun

pytestmark = pytest.mark.slow


def found(processes, folder, name, cured, after=4):
    """The differences of a run that is resumed inside its second epoch."""
    whole = processes.run(ProofRun(folder / "whole", "undisturbed", batches=3), name=name, cured=cured, seed=0)
    run = ProofRun(stopped_copy(folder / "whole", folder / "stopped", after), "resumed", batches=3)
    (stop,) = proof.given_stops(whole, {after})
    return proof.trial(whole, (), stop, lambda: processes.run(run, name=name, cured=cured, seed=1)).found


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_with_its_cure(processes, tmp_path, name):
    differences = found(processes, tmp_path, name, cured=False)
    _, fault, cure = FAULTS[name]
    assert fault in differences[0].text
    assert cure in f"{differences[0].advice.cause} {differences[0].advice.cure}"


@pytest.mark.parametrize("name", CURES)
def test_a_project_that_follows_the_cure_is_exact(processes, tmp_path, name):
    assert list(found(processes, tmp_path, name, cured=True)) == []
