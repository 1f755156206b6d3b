"""A stand-in for a W&B server on loopback: what the real client asks for, kept in memory, with faults on demand."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import quote, unquote

ENTITY = "tester"
"""Owner of the API key, and of projects without an entity."""
CREATED_AT = "2025-01-01T00:00:00"
CHUNK_BYTES = 64 << 10
LONGEST_NAME = 128
"""Of a run or a group, in characters."""

Json = dict[str, Any]
Kind = Literal["graphql", "file_stream", "upload", "run_file", "download"]
"""What a request is for; an `upload` belongs to an artifact, a `run_file` (the console, config.yaml, ...) to a run."""


@dataclass
class Run:
    """One run as the server knows it."""

    id: str
    entity: str
    project: str
    name: str
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    config: Json = field(default_factory=dict)
    """Plain values; what the client notes about itself (`_wandb`) is left out."""
    summary: Json = field(default_factory=dict)
    history: list[Json] = field(default_factory=list)
    state: str = "running"
    """As W&B shows it; after `mark_preempting` another exit code than 0 is a preemption, and no failure."""
    exit_code: int | None = None
    preempting: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    """What the client uploads in addition to artifacts: config.yaml, console output, requirements."""
    stream: dict[str, list[str]] = field(default_factory=dict)
    """The lines of each streamed file, in the order of their offsets."""
    raw_config: str = "{}"
    notes: str | None = None


@dataclass
class Version:
    """One version of a collection of artifacts."""

    id: str
    client_id: str
    entity: str
    project: str
    collection: str
    type: str
    digest: str
    run: str
    metadata: Json = field(default_factory=dict)
    description: str | None = None
    ttl: int | None = None
    """Seconds; None inherits the default of the project, -1 is unlimited."""
    state: str = "PENDING"
    index: int | None = None
    """Given at the commit."""
    aliases: set[str] = field(default_factory=set)
    wanted_aliases: list[str] = field(default_factory=list)
    """What the version will be called once it is committed."""
    tags: set[str] = field(default_factory=set)
    files: dict[str, bytes | None] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    used_by: list[str] = field(default_factory=list)
    step: int | None = None
    manifest: Json | None = None
    manifest_md5: str = ""

    @property
    def version(self) -> str:
        """`v0`, `v1`, ...; empty before the commit."""
        return "" if self.index is None else f"v{self.index}"


class Refused(Exception):
    """The client asks for something that does not exist; the answer says so."""


class Store:
    """Everything that is kept, and what each operation does to it."""

    def __init__(self) -> None:
        self.url = ""
        self.runs: dict[str, Run] = {}
        self.artifacts: list[Version] = []
        self.unknown: list[str] = []

    def run(self, name: str) -> Run:
        """The run of this id."""
        if name not in self.runs:
            raise Refused(f"there is no run {name!r}")
        return self.runs[name]

    def version(self, artifact_id: str) -> Version:
        """The version of this id, deleted ones too."""
        for version in self.artifacts:
            if version.id == artifact_id:
                return version
        raise Refused(f"there is no artifact of the id {artifact_id!r}")

    def committed(self, entity: str | None, project: str | None, collection: str) -> list[Version]:
        """The versions of a collection that a query can see."""
        place = (entity or ENTITY, project, collection)
        return [v for v in self.artifacts if (v.entity, v.project, v.collection) == place and v.state == "COMMITTED"]

    def named(self, entity: str | None, project: str | None, name: str) -> Version | None:
        """The version that `collection:alias` or `collection:v3` means now."""
        collection, _, alias = name.partition(":")
        versions = self.committed(entity, project, collection)
        return next((v for v in versions if (alias or "latest") in v.aliases | {v.version}), None)

    def call(self, version: Version, *aliases: str) -> None:
        """Give a version these aliases, each of them taken from the version that had it."""
        for other in self.artifacts:
            if _collection_of(other) == _collection_of(version):
                other.aliases.difference_update(aliases)
        version.aliases.update(aliases)

    def commit(self, version: Version) -> None:
        """Make a version visible if everything that its manifest lists has arrived completely."""
        if version.state == "COMMITTED":
            return
        self._check(version)
        taken = [v.index for v in self.artifacts if _collection_of(v) == _collection_of(version)]
        version.index = max((index for index in taken if index is not None), default=-1) + 1
        version.state = "COMMITTED"
        self.call(version, "latest", *version.wanted_aliases)

    def _check(self, version: Version) -> None:
        if version.manifest is None:
            raise self.wrong(f"{version.collection}: committed without a manifest")
        for path, data in version.files.items():
            entry = version.manifest["contents"].get(path)
            if data is None or entry is None:
                raise self.wrong(f"{version.collection}: committed, but {path} has not been uploaded")
            if entry.get("digestAlgorithm", "MD5") == "MD5" and entry["digest"] != _md5(data):
                raise self.wrong(f"{version.collection}: the manifest gives {path} another md5 than its bytes have")

    def wrong(self, what: str) -> Refused:
        """Note something that a correct client does not do; it makes the test fail."""
        self.unknown.append(what)
        return Refused(what)


def _collection_of(version: Version) -> tuple[str, str, str]:
    return version.entity, version.project, version.collection


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


# --- users and the server ---


def _viewer(store: Store, asked: Json) -> Json:
    user = {"id": "user-1", "entity": ENTITY, "username": ENTITY, "email": "tester@example.com"}
    return {"viewer": {**user, "flags": "{}", "teams": {"edges": []}}}


def _organization(store: Store, asked: Json) -> Json:
    return {"entity": {"organization": None}}


def _features(store: Store, asked: Json) -> Json:
    return {"serverInfo": {"features": []}}


# --- runs ---


def _entity(name: str) -> Json:
    return {"id": f"entity-{name}", "name": name}


def _project(entity: str, project: str) -> Json:
    return {"id": f"project-{project}", "internalId": "1", "name": project, "entity": _entity(entity)}


def _plain(config: str) -> Json:
    return {key: item["value"] for key, item in json.loads(config).items() if key != "_wandb"}


def _upsert_run(store: Store, asked: Json) -> Json:
    name = asked["name"] or asked["id"]
    for what in ("displayName", "groupName"):
        if len(asked.get(what) or "") > LONGEST_NAME:
            raise store.wrong(f"{what} is longer than {LONGEST_NAME} characters: {asked[what]}")
    inserted = name not in store.runs
    if inserted:
        project = asked.get("project") or "uncategorized"
        store.runs[name] = Run(name, asked.get("entity") or ENTITY, project, asked.get("displayName") or name)
    run = store.runs[name]
    _change_run(run, asked)
    return {"upsertBucket": {"bucket": _bucket(run), "inserted": inserted}}


def _change_run(run: Run, asked: Json) -> None:
    for ours, theirs in (("name", "displayName"), ("group", "groupName"), ("tags", "tags"), ("notes", "notes")):
        if asked.get(theirs) is not None:
            setattr(run, ours, asked[theirs])
    if asked.get("config"):
        run.raw_config, run.config = asked["config"], _plain(asked["config"])
    if asked.get("summaryMetrics"):
        run.summary = json.loads(asked["summaryMetrics"])


def _bucket(run: Run) -> Json:
    return {
        "id": f"run-{run.id}",
        "name": run.id,
        "displayName": run.name,
        "description": run.notes,
        "notes": run.notes,
        "config": run.raw_config,
        "sweepName": None,
        "project": _project(run.entity, run.project),
        "historyLineCount": len(run.history),
    }


def _resume(store: Store, asked: Json) -> Json:
    run = store.runs.get(asked["name"])
    if run is not None:
        run.preempting = False  # it is somewhere else now
    entity, project = asked.get("entity") or ENTITY, asked["project"]
    known = run is not None and (run.entity, run.project) == (entity, project)
    return {"model": {**_project(entity, project), "bucket": _resumed(run) if run and known else None}}


def _resumed(run: Run) -> Json:
    history, events = (run.stream.get(f"wandb-{name}.jsonl", []) for name in ("history", "events"))
    return {
        **_bucket(run),
        "summaryMetrics": json.dumps(run.summary),
        "logLineCount": len(run.stream.get("output.log", [])),
        "eventsLineCount": len(events),
        "historyTail": json.dumps(history[-1:]),
        "eventsTail": json.dumps(events[-1:]),
        "tags": run.tags,
        "wandbConfig": json.dumps({"t": json.loads(run.raw_config).get("_wandb", {}).get("value", {}).get("t", {})}),
    }


def _run_files(store: Store, asked: Json) -> Json:
    run = store.run(asked["run"])
    files = [{"name": name, "uploadUrl": f"{store.url}/run/{run.id}/{quote(name)}"} for name in asked["files"]]
    return {"createRunFiles": {"runID": f"run-{run.id}", "uploadHeaders": [], "files": files}}


# --- artifacts: made by a run ---


def _artifact_type(store: Store, asked: Json) -> Json:
    version = store.named(asked.get("entity"), asked["project"], asked["name"])
    return {"project": {"artifact": version and {"artifactType": {"name": version.type}}}}


def _create(store: Store, asked: Json) -> Json:
    wanted = asked["input"]
    version = _same(store, wanted)
    aliases = [alias["alias"] for alias in wanted.get("aliases") or []]
    if version is None:
        version = _new(store, wanted)
        store.artifacts.append(version)
    if version.state == "COMMITTED":
        store.call(version, *aliases)
    else:
        version.wanted_aliases = aliases
    latest = store.named(version.entity, version.project, version.collection)
    sequence = {"latestArtifact": latest and {"id": latest.id}}
    return {"createArtifact": {"artifact": {"id": version.id, "state": version.state, "artifactSequence": sequence}}}


def _same(store: Store, wanted: Json) -> Version | None:
    """The version that this would be a copy of: the client asked twice, or the contents are the same."""
    place = (wanted["entityName"] or ENTITY, wanted["projectName"], wanted["artifactCollectionName"])
    for version in store.artifacts:
        copied = wanted["enableDigestDeduplication"] and version.digest == wanted["digest"]
        same = copied or version.client_id == wanted["clientID"]
        if same and version.state != "DELETED" and _collection_of(version) == place:
            return version
    return None


def _new(store: Store, wanted: Json) -> Version:
    return Version(
        id=f"artifact-{len(store.artifacts) + 1}",
        client_id=wanted["clientID"],
        entity=wanted["entityName"] or ENTITY,
        project=wanted["projectName"],
        collection=wanted["artifactCollectionName"],
        type=wanted["artifactTypeName"],
        digest=wanted["digest"],
        run=wanted["runName"],
        metadata=json.loads(wanted.get("metadata") or "{}"),
        description=wanted.get("description"),
        ttl=wanted.get("ttlDurationSeconds"),
        step=wanted.get("historyStep"),
    )


def _manifest(store: Store, asked: Json) -> Json:
    version = store.version(asked.get("artifactID") or asked["artifactManifestID"].removeprefix("manifest-"))
    if asked.get("digest"):
        version.manifest_md5 = asked["digest"]
    file: Json = {"id": f"manifest-file-{version.id}", "uploadUrl": _url(store, version), "uploadHeaders": []}
    return {"artifactManifest": {"id": f"manifest-{version.id}", "file": file}}


def _url(store: Store, version: Version, path: str = "") -> str:
    return f"{store.url}/artifact/{version.id}/" + (f"file/{quote(path)}" if path else "manifest")


def _create_files(store: Store, asked: Json) -> Json:
    edges = [{"node": _upload_place(store, item)} for item in asked["input"]["artifactFiles"]]
    return {"createArtifactFiles": {"files": {"edges": edges}}}


def _upload_place(store: Store, item: Json) -> Json:
    if item.get("uploadPartsInput"):
        raise store.wrong(f"{item['name']}: an upload in parts")
    version = store.version(item["artifactID"])
    version.files.setdefault(item["name"], None)
    return {
        "storagePath": f"wandb_artifacts/{version.id}/{item['name']}",
        "uploadUrl": _url(store, version, item["name"]),
        "uploadHeaders": [],
        "uploadMultipartUrls": None,
        "artifact": {"id": version.id},
    }


def _commit(store: Store, asked: Json) -> Json:
    version = store.version(asked["artifactID"])
    store.commit(version)
    return {"commitArtifact": {"artifact": {"id": version.id, "digest": version.digest}}}


# --- artifacts: looked up, used, changed ---


def _alias(version: Version, alias: str) -> Json:
    return {"__typename": "ArtifactAlias", "id": f"alias-{alias}", "alias": alias, "artifactCollection": _home(version)}


def _home(version: Version) -> Json:
    project = _project(version.entity, version.project)
    return {"__typename": "ArtifactSequence", "name": version.collection, "project": project}


def _artifact(version: Version) -> Json:
    sizes = [entry.get("size") or 0 for entry in (version.manifest or {"contents": {}})["contents"].values()]
    return {
        "__typename": "Artifact",
        "id": version.id,
        "artifactSequence": _home(version),
        "versionIndex": version.index,
        "artifactType": {"name": version.type},
        "description": version.description,
        "metadata": json.dumps(version.metadata),
        "ttlDurationSeconds": -1 if version.ttl is None else version.ttl,
        "ttlIsInherited": version.ttl is None,
        "tags": [{"__typename": "Tag", "id": f"tag-{tag}", "name": tag} for tag in sorted(version.tags)],
        "historyStep": version.step,
        "state": version.state,
        "size": sum(sizes),
        "digest": version.digest,
        "digestAlgorithm": "MANIFEST_MD5",
        "commitHash": version.id,
        "fileCount": len(sizes),
        "createdAt": CREATED_AT,
        "updatedAt": CREATED_AT,
        "aliases": [_alias(version, alias) for alias in sorted(version.aliases)],
    }


def _by_id(store: Store, asked: Json) -> Json:
    version = store.version(asked["id"])
    return {"artifact": None if version.state == "DELETED" else _artifact(version)}


def _by_name(store: Store, asked: Json) -> Json:
    version = store.named(asked["entity"], asked["project"], asked["name"])
    return {"project": {"artifactCollectionMembership": version and _membership(version)}}


def _membership(version: Version) -> Json:
    return {
        "__typename": "ArtifactCollectionMembership",
        "id": f"membership-{version.id}",
        "versionIndex": version.index,
        "createdAt": CREATED_AT,
        "aliases": [_alias(version, alias) for alias in sorted(version.aliases)],
        "artifactCollection": _home(version),
        "artifact": _artifact(version),
    }


NO_MORE_PAGES = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}


def _list(store: Store, asked: Json) -> Json:
    versions = store.committed(asked["entity"], asked["project"], asked["collection"])
    versions = [version for version in reversed(versions) if version.type == asked["type"]]
    edges = [{"version": version.version, "node": _artifact(version)} for version in versions]
    page = {"totalCount": len(edges), "pageInfo": NO_MORE_PAGES, "edges": edges}
    collection = {"__typename": "ArtifactSequence", "artifacts": page} if versions else None
    return {"project": {"artifactType": {"artifactCollection": collection}}}


def _manifest_url(store: Store, asked: Json) -> Json:
    version = store.version(asked.get("id") or asked["artifact_id"])
    return {"artifact": {"currentManifest": {"file": {"directUrl": _url(store, version)}}}}


def _file_urls(store: Store, asked: Json) -> Json:
    version = store.named(asked["entity"], asked["project"], f"{asked['collection']}:{asked['alias']}")
    urls = {path: _url(store, version, path) for path in version.files} | version.references if version else {}
    nodes = [{"__typename": "File", "name": path, "directUrl": url} for path, url in urls.items()]
    files = {"pageInfo": NO_MORE_PAGES, "edges": [{"node": node} for node in nodes]}
    membership = version and {"files": files}
    return {"project": {"artifactCollection": {"__typename": "ArtifactSequence", "artifactMembership": membership}}}


def _use(store: Store, asked: Json) -> Json:
    wanted = asked.get("input") or asked  # wandb-core wraps what the Python half of the client gives plainly
    version, run = store.version(wanted["artifactID"]), store.run(wanted["runName"])
    if run.id not in version.used_by:
        version.used_by.append(run.id)
    return {"useArtifact": {"artifact": {"id": version.id}}}


def _add_aliases(store: Store, asked: Json) -> Json:
    store.call(store.version(asked["input"]["artifactID"]), *_aliases(asked))
    return {"result": {"success": True}}


def _delete_aliases(store: Store, asked: Json) -> Json:
    store.version(asked["input"]["artifactID"]).aliases.difference_update(_aliases(asked))
    return {"result": {"success": True}}


def _aliases(asked: Json) -> list[str]:
    return [alias["alias"] for alias in asked["input"]["aliases"]]


def _update(store: Store, asked: Json) -> Json:
    wanted = asked["input"]
    version = store.version(wanted["artifactID"])
    version.description = wanted.get("description")
    if wanted.get("metadata") is not None:
        version.metadata = json.loads(wanted["metadata"])
    if wanted.get("ttlDurationSeconds") is not None:
        version.ttl = wanted["ttlDurationSeconds"]
    version.tags |= {tag["tagName"] for tag in wanted.get("tagsToAdd") or []}
    version.tags -= {tag["tagName"] for tag in wanted.get("tagsToDelete") or []}
    return {"result": {"artifact": _artifact(version)}}


def _delete(store: Store, asked: Json) -> Json:
    version = store.version(asked["input"]["artifactID"])
    if version.aliases and not asked["input"].get("deleteAliases"):
        raise Refused("cannot delete an artifact that has aliases")
    version.state = "DELETED"
    version.aliases.clear()
    return {"result": {"artifact": {"id": version.id}}}


OPERATIONS: dict[str, Callable[[Store, Json], Json]] = {
    "Viewer": _viewer,
    "GetDefaultEntity": _viewer,
    "ServerFeaturesQuery": _features,
    "OrganizationCoreWeaveOrganizationID": _organization,
    "UpsertBucket": _upsert_run,
    "RunResumeStatus": _resume,
    "CreateRunFiles": _run_files,
    "ArtifactType": _artifact_type,
    "CreateArtifact": _create,
    "CreateArtifactManifest": lambda store, asked: {"createArtifactManifest": _manifest(store, asked)},
    "UpdateArtifactManifest": lambda store, asked: {"updateArtifactManifest": _manifest(store, asked)},
    "CreateArtifactFiles": _create_files,
    "CommitArtifact": _commit,
    "ArtifactByID": _by_id,
    "ArtifactMembershipByName": _by_name,
    "ProjectArtifacts": _list,
    "FetchArtifactManifest": _manifest_url,
    "ArtifactManifest": _manifest_url,
    "GetArtifactMembershipFileUrls": _file_urls,
    "UseArtifact": _use,
    "AddAliases": _add_aliases,
    "DeleteAliases": _delete_aliases,
    "UpdateArtifact": _update,
    "DeleteArtifact": _delete,
}
"""What the stand-in can be asked: any other operation is an error of the test."""


# --- files ---


def _stream(store: Store, run_id: str, body: Json) -> Json:
    run = store.run(run_id)
    for name, part in (body.get("files") or {}).items():
        lines = run.stream.setdefault(name, [])
        if part["offset"] > len(lines) and name == "wandb-history.jsonl":
            store.unknown.append(f"run {run_id}: line {part['offset']} of the history came after {len(lines)} lines")
        lines[part["offset"] : part["offset"] + len(part["content"])] = part["content"]
    run.history = [json.loads(line) for line in run.stream.get("wandb-history.jsonl", [])]
    if run.stream.get("wandb-summary.json"):
        run.summary = json.loads(run.stream["wandb-summary.json"][-1])
    run.exit_code = body["exitcode"] if body.get("complete") else None
    run.preempting = run.preempting or bool(body.get("preempting"))
    run.state = _state(run)
    return {"exitcode": None, "limits": {}}


def _state(run: Run) -> str:
    if run.exit_code is None:
        return "preempting" if run.preempting else "running"
    if run.exit_code == 0:
        return "finished"
    return "preempted" if run.preempting else "failed"


def _put_artifact_file(store: Store, artifact_id: str, path: str, data: bytes) -> None:
    version = store.version(artifact_id)
    if path == "manifest":
        if version.manifest_md5 != _md5(data):
            raise store.wrong(f"{version.collection}: the manifest has another md5 than the client said")
        version.manifest = json.loads(data)
        _read_manifest(version, version.manifest["contents"])
    else:
        version.files[path.removeprefix("file/")] = data


def _read_manifest(version: Version, contents: Json) -> None:
    version.references = {path: entry["ref"] for path, entry in contents.items() if "ref" in entry}
    for path in contents.keys() - version.references.keys():
        version.files.setdefault(path, None)


def _get_entry(store: Store, artifact_id: str, md5: str) -> bytes:
    """A file by the path that the client makes itself for a single entry of a manifest."""
    digest = base64.b64encode(bytes.fromhex(md5)).decode()
    return next(data for data in store.version(artifact_id).files.values() if data is not None and _md5(data) == digest)


def _get_artifact_file(store: Store, artifact_id: str, path: str) -> bytes:
    version = store.version(artifact_id)
    data = json.dumps(version.manifest).encode() if path == "manifest" else version.files[path.removeprefix("file/")]
    if data is None:
        raise Refused(f"{path} of {version.collection} has not been uploaded")
    return data


# --- HTTP ---


def _refusal(kind: Kind, message: str) -> tuple[int, bytes]:
    # The client tries a GraphQL query again for minutes after a 400, and reports an error in a good answer at once.
    return 200 if kind == "graphql" else 404, json.dumps({"data": None, "errors": [{"message": message}]}).encode()


class _Handler(BaseHTTPRequestHandler):
    """One connection of the client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def setup(self) -> None:
        super().setup()
        self.owner = self.server.owner
        self.life = self.server.life
        self.owner.connections.add(self.connection)

    def finish(self) -> None:
        self.owner.connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        self._serve("download")

    def do_PUT(self) -> None:
        self._serve("run_file" if self.path.startswith("/run/") else "upload")

    def do_POST(self) -> None:
        self._serve("graphql" if self.path == "/graphql" else "file_stream")

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the assertions of a test say what went wrong."""

    def _serve(self, kind: Kind) -> None:
        self.owner.pass_gate(self.life)
        body = self._body(kind)
        status = self.owner.next_failure(kind)
        answer = b"" if status else b"{}"
        if status is None:
            status, answer = self.owner.answer(kind, unquote(self.path), body)
        self.owner.let_out(self.life)
        self._send(status, answer)

    def _body(self, kind: Kind) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            raise NotImplementedError(f"{self.path}: a body without a length")
        left, parts = int(self.headers.get("Content-Length") or 0), []
        while left:
            part = self.rfile.read(min(left, self.owner.chunk_bytes(kind)))
            if not part:
                raise ConnectionAbortedError
            self.owner.took(kind, len(part), self.life)
            left -= len(part)
            parts.append(part)
        body = b"".join(parts)
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _send(self, status: int, answer: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


class _Http(ThreadingHTTPServer):
    """The listening socket of one life of a server."""

    daemon_threads = True
    block_on_close = False  # a hung connection would hold up the end of the test

    def __init__(self, owner: WandbServer, port: int) -> None:
        self.owner, self.life = owner, owner.life
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients come and go; everything else is an error of the stand-in."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.owner.unknown.append(repr(error))


class WandbServer(Store):
    """Answers the real client on loopback until the context ends; raises there if the client asked for more.

    What it keeps (`runs`, `artifacts`, `operations`, `unknown`) may be read at any time, and outlives a `restart`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.upload_bytes = 0
        """How many bytes of artifacts have arrived, unfinished uploads included."""
        self.num_answers = 0
        self.connections: set[socket.socket] = set()
        self.life = 0
        self._port = 0
        self._changed = threading.Condition(threading.RLock())
        self._answering = threading.Event()
        self._answering.set()
        self._failures: list[tuple[int, Kind | None]] = []
        self._upload_bytes_per_s: float | None = None
        self._http: _Http | None = None

    def __enter__(self) -> WandbServer:
        self.restart()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self.die()
        complaint = "\n\n".join(["the client did what the stand-in does not know:", *self.unknown])
        if error is not None and self.unknown:
            error.add_note(complaint)  # likely the reason for it
        assert error is not None or not self.unknown, complaint

    @property
    def environment(self) -> dict[str, str]:
        """What makes the real client talk to this server and to no other."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": "0123456789" * 4,
            "WANDB_MODE": "online",
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_ENTITY": ENTITY,
            "WANDB_SILENT": "true",
        }

    # --- faults ---

    def slow_uploads(self, bytes_per_s: float | None) -> None:
        """Take the uploads of artifacts at this speed, each connection for itself; None is as fast as they come."""
        self._upload_bytes_per_s = bytes_per_s

    def hang(self) -> None:
        """Accept connections and answer nothing, on those that are open too."""
        with self._changed:
            self._answering.clear()

    def resume(self) -> None:
        """Answer again, what was asked meanwhile first."""
        self._answering.set()

    def fail(
        self, status: int = 500, count: int = 1, only: Literal["upload", "graphql", "file_stream"] | None = None
    ) -> None:
        """Answer the next `count` requests (of this kind) with an error, and do nothing of what they ask."""
        with self._changed:
            self._failures += [(status, only)] * count

    def heal(self) -> None:
        """Answer normally again."""
        with self._changed:
            self._failures.clear()

    def die(self) -> None:
        """End as after a kill: the port is closed, and every connection is cut."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None
        self.life += 1
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client was faster

    def restart(self) -> None:
        """Listen (again), at the same port and with everything that was known."""
        self._http = _Http(self, self._port)
        self._port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self._port}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def wait_until(self, condition: Callable[[WandbServer], object], seconds: float = 60) -> None:
        """Wait until a condition holds, asked after every request and every part of an upload."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), seconds), "waited too long"

    # --- for the connections ---

    def pass_gate(self, life: int) -> None:
        """Wait while the server hangs; a connection of an earlier life ends here."""
        while not self._answering.wait(0.02) and self.life == life:
            pass
        if self.life != life:
            raise ConnectionAbortedError

    def let_out(self, life: int) -> None:
        """Count an answer that goes out: none does while the server hangs."""
        while True:
            self.pass_gate(life)
            with self._changed:
                if self._answering.is_set():
                    self.num_answers += 1
                    return

    def next_failure(self, kind: Kind) -> int | None:
        """The status that this request gets instead of an answer, if any."""
        with self._changed:
            for number, (status, only) in enumerate(self._failures):
                if only in (None, kind):
                    del self._failures[number]
                    return status
        return None

    def chunk_bytes(self, kind: Kind) -> int:
        """How much of a body is read at once: a tenth of a second of a slow upload."""
        slow = self._upload_bytes_per_s if kind == "upload" else None
        return CHUNK_BYTES if slow is None else max(1, min(CHUNK_BYTES, int(slow / 10)))

    def took(self, kind: Kind, num_bytes: int, life: int) -> None:
        """Account for a part of a body, and wait as long as a slow upload takes for it."""
        if kind == "upload":
            with self._changed:
                self.upload_bytes += num_bytes
                self._changed.notify_all()
            if self._upload_bytes_per_s is not None:
                time.sleep(num_bytes / self._upload_bytes_per_s)
        self.pass_gate(life)

    def answer(self, kind: Kind, path: str, body: bytes) -> tuple[int, bytes]:
        """What a request gets: a status and a body."""
        with self._changed:
            try:
                answer = self._graphql(json.loads(body)) if kind == "graphql" else self._file(kind, path, body)
                return 200, answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            except Refused as error:
                return _refusal(kind, str(error))
            except Exception as error:
                self.unknown.append(f"{path}: {error!r}\n{body[:4000].decode(errors='replace')}")
                return _refusal(kind, repr(error))
            finally:
                self._changed.notify_all()

    def _graphql(self, body: Json) -> Json:
        found = re.search(r"\b(?:query|mutation)\s+(\w+)", body["query"])
        name = found.group(1) if found else ""
        self.operations[name] += 1
        if name not in OPERATIONS:
            raise self.wrong(f"unknown operation {name}: {body['query']}\nvariables: {body.get('variables')}")
        return {"data": OPERATIONS[name](self, body.get("variables") or {})}

    def _file(self, kind: Kind, path: str, body: bytes) -> Json | bytes:
        if stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
            return _stream(self, stream.group(1), json.loads(body))
        if kind == "run_file" and (file := re.fullmatch(r"/run/([^/]+)/(.+)", path)):
            self.run(file.group(1)).files[file.group(2)] = body
            return {}
        if entry := re.fullmatch(r"/artifactsV2/(?:[^/]+/){4}([^/]+)/([0-9a-f]{32})/.+", path):
            return _get_entry(self, entry.group(1), entry.group(2))
        if file := re.fullmatch(r"/artifact/([^/]+)/(manifest|file/.+)", path):
            if kind == "download":
                return _get_artifact_file(self, file.group(1), file.group(2))
            _put_artifact_file(self, file.group(1), file.group(2), body)
            return {}
        raise self.wrong(f"unknown path: {kind} {path}")
