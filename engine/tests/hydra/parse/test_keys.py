"""Error messages and warnings name the keys of the configuration."""

import logging
import pickle

import pytest
from torch.utils.data import IterableDataset

from cairn.data.datamodule import DataModule
from cairn.data.loader import DataLoader
from cairn.errors import ConfigError, DataError, MissingFileError, SaveError
from cairn.hydra.parse.keys import in_config_words, logs_in_config_words
from cairn.policy.keep import Best, WithinBytes
from cairn.policy.when import Every
from cairn.store.space import check_writable


@pytest.mark.parametrize(
    ("message", "parameter", "node", "shown"),
    [
        ("directory=/x is full.", "directory", "", "checkpoint.dirpath=/x is full."),
        ("1 MB are free in directory=/x.", "directory", "", "1 MB are free in checkpoint.dirpath=/x."),
        ("directory=/directory=x is full.", "directory", "", "checkpoint.dirpath=/directory=x is full."),
        ("my_directory=/x", "directory", "", "my_directory=/x"),
        ("directory=/x is full.", "", "", "directory=/x is full."),
        ("n=0 must be more.", "n", "checkpoint.keep.some", "checkpoint.keep.some.n=0 must be more."),
        ("n=0 must be more.", "n", "", "n=0 must be more."),
    ],
)
def test_the_parameter_is_replaced_by_its_key(message, parameter, node, shown):
    assert in_config_words(ConfigError(message, parameter=parameter), node) == shown


@pytest.mark.parametrize(
    ("make", "node", "shown"),
    [
        (lambda: Every("often"), "checkpoint.triggers.interval", "checkpoint.save_interval='often' is not"),
        (lambda: Every("often"), "", "checkpoint.save_interval='often' is not"),
        (lambda: Every("auto", 2), "checkpoint.triggers.interval", "checkpoint.max_overhead=2 must be"),
        (lambda: Every("auto", mtbf=0), "checkpoint.triggers.mine", "checkpoint.triggers.mine.mtbf=0 must be"),
        (lambda: Best(-2), "checkpoint.keep.best", "checkpoint.save_top_k=-2 must be"),
        (lambda: DataModule(0), "data", "data.batch_size=0 must be"),
        (lambda: WithinBytes("2XB"), "checkpoint.keep.budget", "checkpoint.keep.budget.num_bytes: Invalid size '2XB'"),
    ],
)
def test_an_error_of_a_constructor_names_the_key(make, node, shown):
    with pytest.raises((ConfigError, DataError)) as error:
        make()
    assert in_config_words(error.value, node).startswith(shown)


def test_an_iterable_without_a_position_names_the_key_that_replays_it():
    class Plain(IterableDataset):
        def __iter__(self):
            yield from range(10)

    with pytest.raises(DataError) as error:
        DataLoader(Plain(), 4).check_resumable()
    assert "set data.replay=True to" in in_config_words(error.value)


def test_a_directory_that_cannot_be_written_is_named_by_its_key(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as error:
        check_writable(tmp_path / "file" / "checkpoints")
    assert in_config_words(error.value).startswith(f"checkpoint.dirpath={tmp_path}")


@pytest.mark.parametrize("kind", [ConfigError, SaveError, MissingFileError])
def test_an_error_keeps_message_and_parameter_when_it_is_pickled(kind):
    error = pickle.loads(pickle.dumps(kind("directory=/x is full.", parameter="directory")))
    assert (type(error), str(error), error.parameter) == (kind, "directory=/x is full.", "directory")


def test_a_warning_names_the_key_in_every_handler(caplog):
    log = logging.getLogger("cairn.lightning.some")
    with logs_in_config_words():
        log.warning("monitor=%r is not logged, see monitor=", "val/loss", extra={"parameter": "monitor"})
        log.warning("monitor=%r of another kind", 1)
    log.warning("monitor=%r is not logged.", "val/loss", extra={"parameter": "monitor"})
    assert [record.getMessage() for record in caplog.records] == [
        "checkpoint.monitor='val/loss' is not logged, see monitor=",
        "monitor=1 of another kind",
        "monitor='val/loss' is not logged.",
    ]
