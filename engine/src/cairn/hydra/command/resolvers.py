"""What an interpolation out of a run directory may ask for: the directory may come from other people.

A project may have registered a resolver that runs code, and an environment variable may be a secret: a run writes its
configuration into its directory, its log and to W&B.
"""

from __future__ import annotations

import re

# Not oc.decode and oc.create: they resolve the text that they get, which may be put together of harmless parts.
_KNOWN = r"oc\.(?:env|select|deprecated|dict\.keys|dict\.values)|now|hydra|job_dir|run_name|python_version"
_HARMLESS = re.compile(rf"\s*(?:[\w.\[\]/-]+\s*\}}|(?:{_KNOWN})\s*:)")
_OF_ENVIRONMENT = re.compile(r"oc\.env\s*:\s*(?!PROJECT_ROOT\b)")


def is_harmless(source: str) -> bool:
    """Return whether the interpolations in a text refer only to other keys, and to resolvers that look something up.

    Args:
        source: The text.
    """
    return all(_HARMLESS.match(source, found.end()) for found in re.finditer(r"\$\{", source))


def reads_environment(source: str) -> bool:
    """Return whether an interpolation in a text reads an environment variable.

    Args:
        source: The text.
    """
    return _OF_ENVIRONMENT.search(source) is not None
