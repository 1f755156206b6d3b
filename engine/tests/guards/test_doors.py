"""Files in directories that may come from other people are opened through `cairn.opening` alone."""

import ast

import pytest
from tests.support.paths import ENGINE

PACKAGE = ENGINE / "src" / "cairn"
DOORS = {"opening.py", "records.py", "bounded_yaml.py"}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).as_posix() not in DOORS)
METHODS = {"read_text", "read_bytes", "write_text", "write_bytes", "fromfile", "memmap", "touch"}
FUNCTIONS = {
    *("open", "os.open", "os.fdopen", "os.truncate", "io.open", "csv.reader", "json.load", "json.loads"),
    *("yaml.load", "yaml.safe_load", "yaml.full_load", "OmegaConf.load", "numpy.load", "np.load", "pickle.load"),
    *("shutil.copy", "shutil.copyfile", "shutil.move", "zipfile.ZipFile", "zipfile.is_zipfile", "torch.load"),
}
OWN = {
    # What only the library or the owner of the project has written.
    "targets.py": {".read_text": "pyproject.toml of the project"},
    "hydra/command_line.py": {
        ".read_text": "configs/ of the project",
        "yaml.safe_load": "the same",
        "json.loads": "an environment variable of this process",
    },
    "hydra/command/help_screen.py": {".read_text": "configs/ of the project", "yaml.safe_load": "the same"},
    "hydra/compose/defaults.py": {".read_text": "configs of this library", "yaml.safe_load": "the same"},
    "writing/buffers.py": {".read_text": "/proc and /sys"},
    "run/attempts.py": {".read_text": "/proc"},
    "jobs/stacks.py": {".read_text": "/proc", ".read_bytes": "the same"},
    "hydra/sweep/slots.py": {
        "json.loads": "an argument of this process",
        "os.open": "see there",
        "os.fdopen": "the same",
    },
    "store/claim.py": {"os.open": "a new file: it fails if there is one"},
    # Pipes and devices of this process.
    "data/forked.py": {"os.open": "/dev/null"},
    "jobs/signals.py": {"os.open": "/dev/null"},
    "streams.py": {"open": "stdin, stdout and stderr", "os.open": "/dev/null"},
    "hydra/sweep/launcher.py": {"open": "a pipe from a child"},
    "testing/server.py": {"open": "/dev/null", "os.fdopen": "a pipe", "json.loads": "the same"},
    "testing/fresh.py": {".read_text": "a temporary directory of this process", "json.loads": "the same"},
    "testing/proof_run.py": {"json.loads": "an environment variable of this process"},
    "testing/record.py": {".read_text": "files of this process", ".write_text": "the same"},
    # Directories, and files that `opening` has checked before.
    "store/disk.py": {"os.open": "directories, to sync and lock them"},
    "store/file_format.py": {"zipfile.ZipFile": "an open file"},
    "run/lock.py": {"os.fdopen": "a handle of `opening`"},
    "writing/load.py": {"torch.load": "after `opening.check`", "zipfile.is_zipfile": "the same"},
    "lightning/logs/csv_logger.py": {"csv.reader": "an open file"},
    "lightning/logs/metrics_file.py": {"csv.reader": "an open file", "os.fdopen": "a handle of `opening`"},
    "uploads/outbox.py": {"shutil.copyfile": "to a name that was just freed"},
    # Files that this process writes for its own reader.
    "study/reading.py": {"csv.reader": "an open file"},
    "study/search/curves.py": {"csv.reader": "lines of an open file"},
    "study/picture.py": {".write_bytes": "a directory that the user names"},
    "study/html.py": {".write_text": "a directory that the user names"},
    "overview/last_values.py": {"csv.reader": "an open file, or a part of one"},
}
"""Calls that open something else, by module, with what they open."""


def _dotted(node):
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([*([node.id] if isinstance(node, ast.Name) else [""]), *reversed(parts)])


def opened(source):
    """Return the calls in a source that open a file or read a text of one: {what: line}."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = _dotted(node.func)
            method = name.rpartition(".")[2]
            if name in FUNCTIONS:
                found[name] = node.lineno
            elif "." in name and method in METHODS and not name.startswith("opening."):
                found[f".{method}"] = node.lineno
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_is_opened_through_the_door(path):
    known = OWN.get(path.relative_to(PACKAGE).as_posix(), {})
    found = {what: line for what, line in opened(path.read_text()).items() if what not in known}
    assert not found, "open it with cairn.opening and read it with cairn.records or cairn.bounded_yaml"


def test_every_exception_is_used():
    found = {name: opened((PACKAGE / name).read_text()) for name in OWN}
    unused = {(name, what) for name, known in OWN.items() for what in known if what not in found[name]}
    assert not unused


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("open(path)", {"open"}),
        ("with open(path) as file: pass", {"open"}),
        ("path.read_text()", {".read_text"}),
        ("(folder / name).read_bytes()", {".read_bytes"}),
        ("run.path.joinpath('a').write_text('')", {".write_text"}),
        ("yaml.safe_load(text)", {"yaml.safe_load"}),
        ("OmegaConf.load(path)", {"OmegaConf.load"}),
        ("json.loads(text)", {"json.loads"}),
        ("os.open(path, flags)", {"os.open"}),
        ("opening.read_text(path)", set()),
        ("json.dumps(value)", set()),
    ],
)
def test_the_guard_sees(source, expected):
    assert set(opened(source)) == expected
