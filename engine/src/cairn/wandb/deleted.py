"""What retention has deleted of a run, so that W&B takes it back also if it hears of that only at the next start."""

from __future__ import annotations

from pathlib import Path

from cairn.store import disk


class Pruned:
    """The digests of it: what else is not there, somebody has moved, and W&B shall keep it.

    Args:
        run: the run directory.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / "wandb" / "pruned.txt"

    def note(self, digest: str) -> None:
        """Before it is deleted: a kill may come in between, and what is kept after all, is kept."""
        if digest:
            try:
                self.path.parent.mkdir(exist_ok=True)
                with open(self.path, "a") as file:
                    file.write(digest + "\n")
            except OSError:
                pass  # who tracks the run will take it back, unless that ends before

    def digests(self) -> set[str]:
        """All of them; a bare one was noted in times of manifest format 1."""
        noted = self.path.read_text().split() if self.path.is_file() else ()
        return {digest if ":" in digest else disk.PLAIN + digest for digest in noted}
