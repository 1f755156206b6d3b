"""The emulator of Azure's object store, from the npm registry: `az://` in a test leads to a real server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import tempfile
import urllib.request
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path

from tests.support.daemon import Daemon, free_ports, listens

VERSION = "3.37.0"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Account and key of every emulator; they are printed in its documentation and open nothing else."""
_FOLDER = Path.home() / ".cache" / f"azurite-{VERSION}"
"""Outside of the virtual environment: it is large, and the next one needs it, too."""


def why_not() -> str | None:
    """Return why there can be no emulator on this machine; None if there can."""
    if shutil.which("node") is None:
        return "node not found (Debian: apt-get install nodejs)"
    if not _program().exists():
        return f"azurite not found (npm install --ignore-scripts --prefix {_FOLDER} azurite@{VERSION})"
    return None


class Azurite:
    """A context with an emulator, whose data is in memory."""

    def __enter__(self) -> Azurite:
        self._folder = Path(tempfile.mkdtemp(prefix="azurite-"))
        (self.port,) = free_ports(1)
        self._containers = 0
        options = ["--blobHost", "127.0.0.1", "--blobPort", str(self.port), "--inMemoryPersistence", "--silent"]
        options += ["--disableTelemetry", "--skipApiVersionCheck"]  # it is asked by a newer client than it knows
        self.daemon = Daemon(["node", _program(), *options], self._folder / "log")
        self.daemon.start()
        self.daemon.until(lambda: listens(self.port), "the emulator to listen")
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables with which `az://` leads here."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{self.port}/{ACCOUNT}",
        }

    def container(self) -> str:
        """Make a container, and return its name. The client under test cannot do this."""
        self._containers += 1
        name = f"container-{self._containers}"
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        listed = "\n".join(f"{key}:{value}" for key, value in headers.items())
        signed = "PUT" + "\n" * 12 + f"{listed}\n/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        signature = base64.b64encode(hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest())
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{signature.decode()}"
        url = f"{self.environment['AZURE_STORAGE_ENDPOINT']}/{name}?restype=container"
        with urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers), timeout=30) as answer:
            assert answer.status == 201
        return name


def _program() -> Path:
    return _FOLDER / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
