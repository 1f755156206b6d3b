"""Hydra's config loader, which composes the configuration of a run once and not twice."""

from __future__ import annotations

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig


class Once(ConfigLoaderImpl):
    """Hydra first composes as for a sweep, only to read `hydra.mode`, and then again: a fifth of a start.

    Here the first answer is already composed as for a run, and is given again. What only a sweep can be composed of is
    composed twice as before.
    """

    _composed: tuple[tuple[str | None, list[str]], DictConfig] | None = None
    """What `hydra.mode` was read from: the command, and its configuration."""

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose a configuration; the arguments are those of Hydra."""
        load, asked = super().load_configuration, (config_name, list(overrides))
        if run_mode == RunMode.MULTIRUN and not validate_sweep_overrides:  # Hydra asks so for `hydra.mode` only
            try:
                cfg = load(config_name, overrides, RunMode.RUN, from_shell, False)
            except Exception:
                return load(config_name, overrides, run_mode, from_shell, False)
            self._composed = asked, cfg
            return cfg
        composed, self._composed = self._composed, None
        if run_mode == RunMode.RUN and composed is not None and composed[0] == asked:
            self.validate_sweep_overrides_legal(
                OverridesParser.create().parse_overrides(overrides), run_mode, from_shell
            )
            return composed[1]
        return load(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
