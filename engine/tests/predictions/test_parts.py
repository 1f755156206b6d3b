"""Parts of predictions are never mixed with those of something else."""

import pytest

from cairn.errors import ConfigError
from cairn.predictions import plan
from cairn.predictions.parts import Parts


def test_parts_without_their_plan_are_refused(tmp_path):
    (tmp_path / "part_000000.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"holds parts of predictions without predictions\.json"):
        Parts(tmp_path).begin(plan.make([[0]], 1, 0, {}))
    assert [path.name for path in tmp_path.iterdir()] == ["part_000000.json"]
