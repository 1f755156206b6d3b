"""Which versions of Lightning are accepted."""

import logging

import lightning
import pytest

from cairn.errors import ConfigError
from cairn.lightning import versions


@pytest.fixture(autouse=True)
def no_override(monkeypatch):
    monkeypatch.delenv(versions.UNTESTED, raising=False)


@pytest.mark.parametrize("version", ["2.6", "2.6.0", "2.6.6", "2.6.6.post1", "2.6.9rc1", lightning.__version__])
def test_a_supported_version_is_accepted(version):
    versions.check(version)


@pytest.mark.parametrize("version", ["2.5.5", "2.7.0", "2.60.1", "3.0", "12.6.1"])
def test_another_version_is_refused_by_name(version):
    with pytest.raises(ConfigError, match=rf"Lightning {version} .* 2\.6\.x\. .*{versions.UNTESTED}=1"):
        versions.check(version)


@pytest.mark.parametrize("value", ["0", "", "yes"])
def test_only_the_value_1_accepts_an_untested_version(value, monkeypatch):
    monkeypatch.setenv(versions.UNTESTED, value)
    with pytest.raises(ConfigError):
        versions.check("2.7.0")


def test_an_untested_version_is_accepted_with_a_warning(monkeypatch, caplog):
    monkeypatch.setenv(versions.UNTESTED, "1")
    with caplog.at_level(logging.WARNING):
        versions.check("2.7.0")
    assert "Lightning 2.7.0 is untested" in caplog.text
