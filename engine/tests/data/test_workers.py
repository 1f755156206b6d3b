"""Workers ignore the signals of a scheduler, and the main process can still end them."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from cairn.data.workers import leave_signals_to_main

OTHERS_KILL = "import os, sys; [os.kill(int(sys.argv[1]), int(number)) for number in sys.argv[2:]]"

# A persistent worker is still alive when the interpreter exits.
EXIT_WITH_A_WORKER = """
import torch
from torch.utils.data import DataLoader
from cairn.data.workers import leave_signals_to_main
loader = DataLoader(range(4), num_workers=1, persistent_workers=True, worker_init_fn=leave_signals_to_main)
list(loader)
"""


class Pids(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return os.getpid()


def test_a_worker_outlives_the_signals_of_a_scheduler():
    loader = DataLoader(Pids(), num_workers=1, prefetch_factor=1, worker_init_fn=leave_signals_to_main)
    batches = iter(loader)
    pid = next(batches).item()
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]
    # From a third process, because the parent of the worker may end it.
    subprocess.run([sys.executable, "-c", OTHERS_KILL, str(pid), *(str(int(n)) for n in numbers)], check=True)
    assert torch.cat(list(batches)).tolist() == [pid] * 7


@pytest.mark.slow
def test_the_interpreter_exits_while_a_worker_is_alive():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", EXIT_WITH_A_WORKER]
    result = subprocess.run(command, capture_output=True, timeout=60, env=environment, check=False)
    assert result.returncode == 0, result.stderr
