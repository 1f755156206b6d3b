"""Encodes checkpoints with values that a file cannot hold as they are, see `forms`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cairn.errors import UnsafeStateError
from cairn.writing.encode import Encoded, Encoder
from cairn.writing.forms import OURS, TABLE, to_plain


class FormEncoder:
    """Encodes one checkpoint after the other; values that a file cannot hold are replaced by their plain forms.

    Args:
        stand_ins: See `Encoder`.
    """

    def __init__(self, stand_ins: bool = False) -> None:
        self._encoder = Encoder(stand_ins)
        self._has_forms = False
        """Whether a checkpoint had such a value: only then is each one searched for them, which takes time."""

    def encode(self, contents: Mapping[str, Any], name: str = "checkpoint") -> Encoded:
        """Encode a checkpoint; its tensors are referred to, not copied.

        Args:
            contents: What Lightning saves, with our part under `OURS`.
            name: Name of the state in errors.

        Raises:
            UnsafeStateError: A value has no form that comes back as what it was; the message names the path to it.
        """
        if not self._has_forms:
            try:
                encoded = self._encoder.encode(contents, name)
            except UnsafeStateError:
                self._has_forms = True
            else:
                self._has_forms = encoded.num_converted > 0
                if not self._has_forms:
                    return encoded
        plain, table = to_plain(contents)
        if table:
            plain = {**plain, OURS: {**plain.get(OURS, {}), TABLE: table}}
        return self._encoder.encode(plain, name)
