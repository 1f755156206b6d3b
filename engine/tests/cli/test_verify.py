"""`cairn verify`: every damaged byte is found, and the exit code says so."""

import json

import pytest
from tests.support.cli import cairn
from tests.support.values import flip_byte

from cairn.store import names
from cairn.store.catalog import Catalog


def test_an_intact_run_passes(run, capsys):
    cairn("verify", run.path)
    output = capsys.readouterr().out
    assert output.count("intact") == 6
    assert "corrupt" not in output


@pytest.mark.parametrize("as_json", [False, True])
def test_one_changed_byte_fails(run, as_json, capsys):
    broken = Catalog(run.checkpoints()).committed()[1]
    flip_byte(run.checkpoints(), broken.name)
    cairn("verify", run.path, *["--json"] * as_json, expect=1)
    output = capsys.readouterr().out
    if as_json:
        assert {item["state"] for item in json.loads(output)} == {"whole", "broken"}
    else:
        found = [line.split()[1] for line in output.splitlines() if line.startswith("corrupt")]
        assert found == [broken.name, names.BEST], "and the link to it"
    cairn("verify", run.checkpoints() / broken.name, expect=1)
    cairn("verify", run.checkpoints() / names.BEST, expect=1)
    cairn("verify", run.checkpoints() / names.LAST)


def test_a_missing_file_is_an_error(run, capsys):
    cairn("verify", run.checkpoints() / "gone.ckpt", expect=1)
    assert "There is no" in capsys.readouterr().err
