"""The processes of an attempt of torchrun find each other, and nothing that an earlier attempt has left."""

import threading
import time
from datetime import timedelta

import pytest
from torch.distributed import HashStore, TCPStore

from cairn.jobs.rendezvous import Rank
from cairn.lightning import torchrun
from cairn.lightning.torchrun import TorchrunEnvironment, follow, lead

SECONDS = timedelta(seconds=60)


class Started:
    """Ranks that run at the same time, each in a thread."""

    def __init__(self, actions):
        self.found = [None] * len(actions)
        self._threads = [threading.Thread(target=self._run, args=each) for each in enumerate(actions)]
        for thread in self._threads:
            thread.start()

    def _run(self, number, action):
        try:
            self.found[number] = action()
        except Exception as error:
            self.found[number] = error

    def end(self):
        for thread in self._threads:
            thread.join(60)
        return self.found


def attempt(store, num_ranks, port):
    actions = [lambda: lead(store, Rank(0, num_ranks), port, SECONDS)]
    actions += [lambda rank=rank: follow(store, Rank(rank, num_ranks), 60) for rank in range(1, num_ranks)]
    return Started(actions)


def test_each_attempt_has_a_name_and_a_port_that_all_ranks_know():
    store, names = HashStore(), set()
    for num_ranks, port in ((3, 1111), (3, 2222), (2, 3333), (4, 4444)):  # a node leaves, and another one joins
        name, *others = attempt(store, num_ranks, port).end()
        assert [(other.name, other.port) for other in others] == [(name, port)] * (num_ranks - 1)
        names.add(name)
    assert len(names) == 4


def test_a_rank_that_comes_first_waits_for_the_attempt_to_which_it_belongs():
    store = HashStore()
    attempt(store, 2, 1111).end()
    before = store.get("cairn/attempt").decode()
    answer = store.get(f"{before}/1")
    early = Started([lambda: follow(store, Rank(1, 2), 60)])
    while store.get(f"{before}/1") == answer:  # until it has answered the attempt before
        time.sleep(0.001)
    name = lead(store, Rank(0, 2), 2222, SECONDS)
    (found,) = early.end()
    assert (found.name, found.port) == (name, 2222)
    assert name != before


def test_a_rank_0_that_never_starts_is_an_error():
    store = HashStore()
    store.set("cairn/attempt", "before")
    with pytest.raises(TimeoutError, match=r"^Rank 3 has waited 0 s for rank 0 of this attempt"):
        follow(store, Rank(3, 4), 0.1)


ENVIRON = {"TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "127.0.0.1", "LOCAL_RANK": "0", "GROUP_RANK": "0"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {**ENVIRON, "RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1"},
        {**ENVIRON, "RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1", "TORCHELASTIC_USE_AGENT_STORE": "False"},
        {**ENVIRON, "RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": "1", "TORCHELASTIC_USE_AGENT_STORE": "True"},
    ],
    ids=["alone", "old torch", "a store for each attempt", "one process"],
)
def test_without_a_store_of_several_attempts_there_is_nothing_to_do(environ, monkeypatch):
    assert torchrun.meet(environ) is None
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    if environ:
        assert TorchrunEnvironment().main_port == 1


def test_the_environment_leads_to_the_store_of_rank_0(monkeypatch):
    agents = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environ = {**ENVIRON, "WORLD_SIZE": "2", "MASTER_PORT": str(agents.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    started = Started([lambda rank=rank: torchrun.meet({**environ, "RANK": str(rank)}, 60) for rank in (0, 1)])
    first, second = started.end()
    assert (first.name, first.port) == (second.name, second.port)
    assert first.port not in (0, agents.port)
    assert torchrun.rank_in(second, {**environ, "RANK": "1"}) == Rank(1, 2, first.name)
    assert torchrun.rank_in(None, {**environ, "RANK": "1"}) == Rank(1, 2, f"x-127.0.0.1-{agents.port}")
    for name, value in {**environ, "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    environment = TorchrunEnvironment(second)
    assert (environment.main_address, environment.main_port) == ("127.0.0.1", first.port)
    client = TCPStore("127.0.0.1", environment.main_port, is_master=False)
    client.set("a", "b")
    assert first.store.get("a") == b"b"


def test_ranks_that_do_not_come_are_an_error():
    agents = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environ = {**ENVIRON, "RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": str(agents.port)}
    with pytest.raises(TimeoutError, match=r"^Rank 0 has waited 0 s for the other ranks of this attempt"):
        torchrun.meet({**environ, "TORCHELASTIC_USE_AGENT_STORE": "True"}, 0.2)
