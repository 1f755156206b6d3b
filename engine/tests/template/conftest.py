import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/template" in item.path.as_posix():
            # Loading 8 samples of a tensor needs no workers, whatever Lightning advises.
            item.add_marker(pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"))
            # A training without validation is enough for most of what is asked here.
            item.add_marker(pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"))
