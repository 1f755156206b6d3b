"""The single steps that change a mirror: upload a checkpoint, delete one, write a pointer, remove leftovers.

One upload:
    1  the data      the file, or the shards; what an interrupted upload has left is used
    2  run files     after the commit of the checkpoint, so that they are as new as it, or newer
    3  the record    created only if no later start has begun: from now on, the mirrored checkpoint exists

One deletion goes the other way: first the record, then what no other record needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from cairn.errors import CorruptCheckpointError, RemoteError
from cairn.remote import dangling, data, layout, listed, record
from cairn.remote.layout import Stem
from cairn.remote.mirrored import Mirrored
from cairn.remote.objects import Objects
from cairn.remote.owner import TakenOver
from cairn.remote.plan import Wanted, newer
from cairn.remote.ranks import ShardUploads
from cairn.remote.record import Record, RunFile
from cairn.remote.run_files import RunFiles
from cairn.remote.session import Session
from cairn.remote.state import State
from cairn.types import Saved
from cairn.uploads.once import ErrorsOnce


class Ended(Exception):
    """The upload is not wanted any more."""


class Actions:
    """Carries out single steps. Each may fail with a RemoteError, and may be repeated. For one thread.

    Args:
        session: The connection to the mirror.
        state: What the mirror should hold.
        run_files: Uploads what belongs to each record.
        shards: Shares the upload of shards with other ranks.
        errors: Logs what goes wrong.
        is_over: Asked again and again whether the upload of this checkpoint is to end.
    """

    def __init__(
        self,
        session: Session,
        state: State,
        run_files: RunFiles,
        shards: ShardUploads,
        errors: ErrorsOnce,
        is_over: Callable[[Saved], bool],
    ) -> None:
        self.mirrored = Mirrored()
        self.sent_bytes = 0
        """Of the checkpoint that is being uploaded."""
        self._session, self._state, self._run_files = session, state, run_files
        self._shards, self._errors, self._is_over = shards, errors, is_over

    @property
    def _objects(self) -> Objects:
        return self._session.objects

    def look(self) -> None:
        """Find out what the mirror holds; reach it first, if that was not possible at the start."""
        self._session.go_on(lambda objects: _check_is_not_behind(self._state.wanted(), objects))
        found = listed.look(self._objects)
        whole = self.mirrored.take(found, *listed.read_records(self._objects, found))
        self._state.listed(self.mirrored.saved)
        if whole:
            self._run_files.begin(whole[-1].files)

    def upload(self, saved: Saved, pause: Callable[[float], object]) -> None:
        """Upload a checkpoint, with the files of the run, and create its record.

        Args:
            saved: The checkpoint.
            pause: Waits for some seconds, while other ranks upload.

        Raises:
            Ended: It is not wanted any more.
        """
        source, is_there, is_lost = self._state.begin_upload(saved), False, False
        try:
            if source is None:
                is_lost = True
                return
            self._session.check()
            self._upload_data(saved, source.path, pause)
            files = self._run_files.upload(partial(self._put_part, saved), self.mirrored.has)
            self.mirrored.add(self._create(saved, source.manifest, files))
            is_there = True
        except RemoteError:  # it is an OSError, too
            raise
        except FileNotFoundError:  # retention has deleted it
            is_lost = True
        except OSError as error:
            is_lost = True
            self._errors.log("read", f"{saved.name} cannot be read, and is not mirrored ({error.strerror or error})")
        finally:
            self.sent_bytes = 0
            self._state.end_upload(saved, is_there, is_lost)

    def delete(self, stem: Stem) -> None:
        """Delete a record, and what only it needs."""
        self._session.check()
        self._objects.delete([stem.record])
        self._delete_objects(self.mirrored.needed_by(stem))
        self.mirrored.remove(stem)

    def point(self, link: str, stem: Stem) -> None:
        """Write the pointer that stands for a link."""
        self._objects.put(layout.POINTERS[link], layout.pointer(stem))
        self.mirrored.pointed[link] = stem

    def renew(self) -> None:
        """Let the newest record name the run files as they are at the end, such as the outcome of the run.

        Besides damaged ones, this is the only record that is replaced: in one request, by one about the same data.
        """
        newest = self._state.newest
        stem = layout.stem_of(newest) if newest is not None else None
        if newest is None or stem not in self.mirrored.saved:
            return
        files = self._run_files.upload(partial(self._put_part, newest), self.mirrored.has)
        before = listed.read_record(self._objects, stem)
        if before.is_behind(files):
            self._session.check()
            contents = record.dump(before.manifest, files)
            self._objects.put(stem.record, contents)
            self.mirrored.replace(record.load(contents, stem))

    def clean(self) -> None:
        """Remove what interrupted uploads and deletions have left; nothing while a record cannot be read."""
        found = listed.look(self._objects)
        unknown = tuple(stem for stem in found.stems if stem not in self.mirrored.saved)
        others, bad = listed.read_records(self._objects, replace(found, stems=unknown))
        for item in others:
            if not found.missing(item):
                self.mirrored.add(item)
        self._session.check()
        if bad:
            stem, why = next(iter(bad.items()))
            text = f"what interrupted uploads have left is not removed, because {stem.record} may need it ({why})"
            self._errors.log("leftovers", text)
        else:
            self._delete_objects(found.unreferenced(others, self.mirrored.needed))
        dangling.abort(self._objects.address)

    def _delete_objects(self, names: Sequence[str]) -> None:
        self.mirrored.forget(names)  # first: if this fails, some of them may be gone
        self._objects.delete(names)

    def _upload_data(self, saved: Saved, path: Path, pause: Callable[[float], object]) -> None:
        def beat(num_bytes: int) -> None:
            self.sent_bytes = num_bytes
            if self._is_over(saved):
                raise Ended

        def wait(limit_s: float) -> None:
            pause(limit_s)
            beat(self.sent_bytes)

        data.upload(self._objects, self.mirrored, self._shards, saved, path, beat, wait)

    def _put_part(self, saved: Saved, name: str, piece: bytes) -> None:
        if self._is_over(saved):
            raise Ended
        if not self.mirrored.has(name, len(piece)):
            self._objects.put(name, piece)
            self.mirrored.uploaded(name, len(piece))

    def _create(self, saved: Saved, manifest: str, files: list[RunFile]) -> Record:
        """Create the record, which makes the mirrored checkpoint exist."""
        self._session.check()
        if self._state.is_replaced(saved):  # the bytes may have been those of the new one
            raise Ended
        stem, contents = layout.stem_of(saved), record.dump(manifest, files)
        return _created(self._objects, self.mirrored, stem, contents)


def _check_is_not_behind(wanted: Wanted, objects: Objects) -> None:
    """Check that a mirror that could not be reached at the start holds nothing that this start should have begun with.

    Raises:
        TakenOver: It does: uploads of this start would replace it.
    """
    found = newer(wanted, listed.look(objects).stems)
    if found is not None:
        raise TakenOver(
            f"{objects.address} could not be reached when this process started, and holds a newer checkpoint than the "
            f"one that it went on from ({found.name}). To go on from that one, stop this process and start it again"
        )


def _created(objects: Objects, mirrored: Mirrored, stem: Stem, contents: bytes) -> Record:
    if not objects.create(stem.record, contents):
        # An earlier request was carried out, although its answer was an error; or the record is damaged, or lacks what
        # it names. Its name says that it is about this very checkpoint.
        with suppress(CorruptCheckpointError):
            before = listed.read_record(objects, stem)
            if mirrored.has_all(before):
                return before
        objects.put(stem.record, contents)
    return record.load(contents, stem)
