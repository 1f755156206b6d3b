"""Credentials that expire: what a container, or a node with a role, asks for its keys."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from tests.support.object_store import short_lived_key


class CredentialsServer:
    """A context with an endpoint that hands out the current key of a role, as in a container of AWS.

    Args:
        folder: For the file with the token that clients send.
        valid_s: How long a key is said to be valid, in seconds.
        changed: Called with the access key of each new pair, for instance to make all others invalid.
    """

    def __init__(self, folder: Path, valid_s: float, changed: Callable[[str], None] = lambda key: None) -> None:
        self._token, self._valid_s, self._changed = folder / "token", valid_s, changed
        self._number = 0
        self.num_requests = 0

    def __enter__(self) -> Self:
        self._token.write_text("token")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(outer._answer()).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self._changed(short_lived_key(self._number)[0])
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """Variables in place of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."""
        url = f"http://127.0.0.1:{self._server.server_port}/"
        return {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": url,
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(self._token),
        }

    def rotate(self) -> None:
        """From now on there is another key."""
        self._number += 1
        self._changed(short_lived_key(self._number)[0])

    def _answer(self) -> dict[str, str]:
        self.num_requests += 1
        key, secret = short_lived_key(self._number)
        end = datetime.now(UTC) + timedelta(seconds=self._valid_s)
        return {
            "AccessKeyId": key,
            "SecretAccessKey": secret,
            "Token": "",
            "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
