"""The sweepers are found by Hydra, also in the processes that unpickle them."""

import os

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from cairn.hydra.search import plugins


def test_the_sweepers_are_registered_and_their_jobs_find_them(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    plugins.register()
    known = Plugins.instance().class_name_to_class
    assert {name.rpartition(".")[2] for name in known if name.startswith(plugins.SWEEPERS)} == {"Halving", "Optuna"}
    assert issubclass(known[f"{plugins.SWEEPERS}.Halving"], Sweeper)
    assert os.environ["PYTHONPATH"] == f"{plugins.FOLDER}{os.pathsep}somewhere"
