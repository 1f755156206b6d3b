"""Silence warnings of Lightning that do not matter for small trainings."""

import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/template" in item.path.as_posix():
            # Lightning advises workers, but 8 samples in memory need none.
            item.add_marker(pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"))
            # Most of the models here are trained without validation.
            item.add_marker(pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"))
