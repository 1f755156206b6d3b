"""Output that cannot be written never ends a program, and never decides its exit code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import logging, os, signal, sys
from cairn import streams
streams.protect()
streams.protect()  # again: no second layer
logging.basicConfig(stream=sys.stdout)
for number in range(300):
    print("line", number, flush=True)
    print("error", number, file=sys.stderr)
    logging.warning("warning %d", number)
os.system("echo child")
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
assert descriptor > 2, descriptor
open(sys.argv[1], "w").write("ended")
sys.exit(7)
"""


def run(tmp_path, redirection, before=""):
    """Run the program in a shell, and return its exit code, its stdout and its stderr."""
    end = tmp_path / "end"
    code = f'{before} "$0" -c "$PROGRAM" "$END" {redirection}'
    env = {**os.environ, "PROGRAM": PROGRAM, "END": str(end)}
    found = subprocess.run(["bash", "-c", code, sys.executable], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert end.read_text() == "ended"
    return found.returncode, found.stdout, found.stderr


def test_what_can_be_written_is_written_in_its_order(tmp_path):
    code, out, err = run(tmp_path, "")
    assert code == 7
    lines = [line for n in range(300) for line in (f"line {n}", f"WARNING:root:warning {n}")]
    assert out.splitlines() == [*lines, "child"]
    assert err.splitlines() == [f"error {n}" for n in range(300)]


def test_without_a_buffer_a_killed_program_has_printed_everything():
    code = "from cairn import streams; import os, sys; streams.protect(); streams.protect(); "
    code += "print('line'); print('error', file=sys.stderr); sys.stderr.write('half'); os.kill(os.getpid(), 9)"
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (-9, "line\n", "error\nhalf")


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_descriptors_are_not_given_to_other_files(tmp_path, redirection):
    assert run(tmp_path, redirection)[0] == 7


@pytest.mark.parametrize("both", ["", "2>&1"])
def test_a_reader_that_leaves_is_not_an_error(tmp_path, both):
    code, out, err = run(tmp_path, f"{both} | head -1; exit ${{PIPESTATUS[0]}}")
    assert (code, out) == (7, "line 0\n")
    assert "Traceback" not in err
    assert "Broken" not in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named_once(tmp_path):
    code, _, err = run(tmp_path, "> /dev/full")
    assert code == 7
    assert [line for line in err.splitlines() if not re.fullmatch(r"error \d+", line)] == [
        "stdout cannot be written: No space left on device. Its further output is dropped; the program goes on."
    ]


def test_a_log_file_that_reaches_the_limit_of_the_shell_is_named(tmp_path):
    code, _, err = run(tmp_path, "> log", before="ulimit -f 1;")
    assert code == 7
    assert "stdout cannot be written: File too large (ulimit -f). Its further output is dropped" in err
    assert (tmp_path / "log").stat().st_size == 1024
