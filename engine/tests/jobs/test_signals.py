"""A first signal only sets a flag while training runs; afterwards the previous handlers are back."""

import ctypes
import multiprocessing
import os
import pty
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from cairn.jobs.signals import STOP_SIGNALS, Interruption, Interrupts, exit_code, ignore_signals
from cairn.lightning.interrupts import WatchTraining

SIGINT, SIGTERM, SIGHUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@pytest.fixture(autouse=True)
def handlers():
    """The handlers before a test, which are restored after it; a hangup is not ignored, whatever runs pytest."""
    outside = current()
    signal.signal(SIGHUP, signal.SIG_DFL)
    yield current()
    for number, handler in outside.items():
        signal.signal(number, handler)


@pytest.fixture
def signals():
    """Interrupts of a training that runs."""
    with Interrupts() as signals:
        WatchTraining(signals).on_train_start(None, None)
        yield signals


def current():
    return {number: signal.getsignal(number) for number in STOP_SIGNALS}


def test_a_handler_that_user_code_installs_before_training_is_called_as_well(signals):
    """The command installs the handlers first; the module's constructor may install its own later."""
    seen = []
    watch = WatchTraining(signals)
    signal.signal(SIGTERM, lambda *_: seen.append("own"))
    watch.setup(None, None, "fit")
    signal.signal(SIGTERM, signal.SIG_IGN)  # Lightning's, which would call the one before
    watch.on_train_start(None, None)
    signal.raise_signal(SIGTERM)
    assert (seen, signals.name) == (["own"], "SIGTERM")


def test_outside_of_training_a_handler_of_user_code_may_end_the_process():
    def leave(*_):
        sys.exit(5)

    signal.signal(SIGTERM, leave)
    with Interrupts(), pytest.raises(SystemExit):
        signal.raise_signal(SIGTERM)


def test_nothing_is_received_without_a_signal(signals):
    assert (signals.received, signals.name) == (0, None)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_first_signal_is_remembered_and_training_continues(signals, number):
    signal.raise_signal(number)
    assert signals.received == number
    assert signals.name == number.name


@pytest.mark.parametrize(("first", "second"), [(SIGTERM, SIGINT), (SIGINT, SIGTERM), (SIGTERM, SIGTERM)])
def test_the_first_of_two_signals_counts(signals, first, second):
    signal.raise_signal(first)
    signal.raise_signal(second)
    assert signals.received == first


def test_a_second_ctrl_c_stops_at_once(signals):
    signal.raise_signal(SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(SIGINT)
    assert signals.received == SIGINT


def test_a_second_ctrl_c_stops_at_once_although_a_sigterm_came_first(signals):
    signal.raise_signal(SIGTERM)
    signal.raise_signal(SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(SIGINT)


def test_ctrl_c_prints_what_happens_next(signals, capfd):
    signal.raise_signal(SIGTERM)
    assert capfd.readouterr().err == ""
    signal.raise_signal(SIGINT)
    assert "Stopping after this batch" in capfd.readouterr().err


def test_the_previous_handlers_are_restored(handlers):
    with Interrupts() as signals:
        assert current() != handlers
        assert signals.previous_handlers == handlers
        WatchTraining(signals).on_train_start(None, None)
        WatchTraining(signals).on_fit_end(None, None)
        assert current() != handlers, "a test after the training can be stopped, too"
    assert current() == handlers


def test_install_and_remove_do_the_same_as_a_with_block_and_may_be_repeated(handlers):
    signals = Interrupts()
    signals.remove()
    assert current() == handlers
    for _ in range(2):
        signals.install()
        signals.install()
        assert signals.previous_handlers == handlers
        signals.training = True
        signal.raise_signal(SIGTERM)
        signals.remove()
        signals.remove()
        assert current() == handlers
    assert signals.name == "SIGTERM"


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize("again", [False, True], ids=["once", "installed again meanwhile"])
def test_a_removed_handler_that_lightning_puts_back_acts_as_the_one_from_before(number, again):
    """At the end of a failed fit Lightning restores the handlers that it found, after the callbacks were called."""
    seen = []
    signal.signal(number, lambda number, frame: seen.append(number))
    signals = Interrupts()
    signals.install()
    found_by_lightning = signal.getsignal(number)
    signals.remove()
    signal.signal(number, found_by_lightning)
    if again:
        signals.install()
        signals.remove()
    signal.raise_signal(number)
    signal.raise_signal(number)
    assert (seen, signals.received) == ([number, number], 0)


def test_two_may_be_nested_and_the_inner_one_receives_the_signal(handlers, signals):
    with Interrupts() as inner:
        inner.training = True
        signal.raise_signal(SIGTERM)
    assert (inner.name, signals.name) == ("SIGTERM", None)
    signal.raise_signal(signal.SIGUSR1)
    assert signals.name == "SIGUSR1"


def test_a_hangup_that_nohup_ignores_stays_ignored():
    signal.signal(SIGHUP, signal.SIG_IGN)
    with Interrupts() as signals:
        signals.reinstall()
        signal.raise_signal(SIGHUP)
        assert signals.received == 0
        assert signal.getsignal(SIGHUP) == signal.SIG_IGN
    assert signal.getsignal(SIGHUP) == signal.SIG_IGN


def test_a_run_whose_terminal_is_closed_can_still_print_and_stops_at_its_boundary(tmp_path):
    """Without care the next line of a progress bar would raise an OSError, and the run would end unsaved."""
    run = textwrap.dedent("""
        import sys, time
        from cairn.jobs.signals import Interrupts
        with Interrupts() as signals:
            signals.training = True
            print("ready", flush=True)
            while not signals.received:
                time.sleep(0.01)
            print("a progress bar", flush=True)
            print("the same", file=sys.stderr, flush=True)
        with open(sys.argv[1], "w") as file:
            file.write(signals.name)
    """)
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
        os.execv(sys.executable, [sys.executable, "-c", run, str(tmp_path / "saved")])
    assert b"ready" in os.read(terminal, 100)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (tmp_path / "saved").read_text() == "SIGHUP"


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_outside_of_training_the_first_signal_stops_at_once(number, when):
    with Interrupts() as signals:
        if when == "after":
            WatchTraining(signals).on_train_start(None, None)
            WatchTraining(signals).on_fit_end(None, None)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert signals.received == number


def test_a_signal_while_the_run_is_stopping_is_ignored_except_ctrl_c(signals):
    WatchTraining(signals).on_exception(None, None, RuntimeError())
    signal.raise_signal(SIGTERM)
    assert signals.name == "SIGTERM"
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(SIGINT)


@pytest.mark.parametrize("second", [SIGTERM, signal.SIGUSR2])
def test_a_second_signal_does_not_disturb_the_end_that_the_first_one_caused(second):
    with Interrupts() as signals:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(SIGTERM)
        signal.raise_signal(second)
        assert signals.name == "SIGTERM"


def test_the_handlers_of_lightning_are_replaced_when_training_starts():
    with Interrupts() as signals:
        signal.signal(SIGTERM, signal.SIG_IGN)
        WatchTraining(signals).on_train_start(None, None)
        signal.raise_signal(SIGTERM)
        assert signals.received == SIGTERM


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signals_can_be_ignored_for_a_while_also_by_child_processes(number, signals):
    before = current()
    there = f"import signal; print(int(signal.getsignal({int(number)}) == signal.SIG_IGN))"
    with ignore_signals():
        signal.raise_signal(number)
        child = subprocess.run([sys.executable, "-c", there], capture_output=True, text=True)
    assert (child.stdout.strip(), signals.received, current()) == ("1", 0, before)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("SIGHUP", 129), ("SIGINT", 130), ("SIGUSR1", 138), ("SIGUSR2", 140), ("SIGTERM", 143), ("job_time_limit", 75)],
)
def test_the_exit_code_says_what_stopped_a_run(reason, expected):
    assert exit_code(reason) == expected
    assert (Interruption(reason).code, Interruption(reason).reason) == (expected, reason)


def test_outside_of_the_main_thread_no_handler_is_installed(handlers):
    def enter():
        with Interrupts() as signals:
            signals.reinstall()
            found.update(current())

    found = {}
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == handlers


def test_a_forked_process_that_inherits_the_handlers_ignores_the_signals_and_restores_nothing(signals, monkeypatch):
    installed = current()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    for number in (SIGHUP, SIGINT, SIGINT, signal.SIGUSR1):
        signal.raise_signal(number)
    signals.remove()
    assert (signals.received, current()) == (0, installed)


@pytest.mark.parametrize("removed", [False, True], ids=["installed", "put back after it was removed"])
def test_a_forked_process_can_be_terminated(signals, removed):
    """`multiprocessing` ends a pool that way, and waits for it."""
    ours = signal.getsignal(SIGTERM)
    if removed:
        signals.remove()
        signal.signal(SIGTERM, ours)
    child = multiprocessing.get_context("fork").Process(target=signal.pause)
    child.start()
    child.terminate()
    child.join()
    assert (child.exitcode, signals.received) == (-SIGTERM, 0)


def test_a_forked_process_ends_by_a_signal_that_comes_before_its_first_line():
    """The C function `getchar`, which runs in the child before Python does, waits until the signal is sent."""
    script = """
        import ctypes, os, signal
        from cairn.jobs.signals import Interrupts
        libc = ctypes.CDLL(None)
        reader, writer = os.pipe()
        os.dup2(reader, 0)
        libc.__register_atfork(None, None, libc.getchar, None)
        with Interrupts() as signals:
            signals.training = True
            if not (child := os.fork()):
                signal.alarm(20)
                signal.pause()
            os.kill(child, signal.SIGTERM)
            os.write(writer, b".")
            assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
            assert not signals.received
    """
    if not hasattr(ctypes.CDLL(None), "__register_atfork"):
        pytest.skip("needs glibc")
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)


@pytest.mark.parametrize("how", ["SIG_BLOCK", "SIG_SETMASK"], ids=["before", "after"])
@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_a_signal_during_a_fork_is_obeyed_after_it(number, how):
    """Outside of the training, a handler raises KeyboardInterrupt, which Python drops in a hook of a fork."""
    script = f"""
        import os, signal, time
        from cairn.jobs.signals import Interrupts
        real, is_sent = signal.pthread_sigmask, False
        def sigmask(how, mask):
            global is_sent
            before = real(how, mask)
            if how == signal.{how} and not is_sent:  # inside of the hook
                is_sent = True
                os.kill(os.getpid(), {number:d})
            return before
        signal.pthread_sigmask = sigmask
        interrupted = False
        with Interrupts() as signals:
            try:
                if not os.fork():
                    os._exit(0)
                time.sleep(60)
            except KeyboardInterrupt:
                interrupted = True
        assert is_sent
        assert interrupted
        assert signals.received == {number:d}
        assert not real(signal.SIG_BLOCK, ())
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_handler_of_user_code_that_passes_the_signal_on_is_called_once(handlers, number):
    calls = []
    with Interrupts() as signals:
        found = signal.getsignal(number)

        def passes_on(*arguments):
            calls.append(arguments[0])
            found(*arguments)

        signal.signal(number, passes_on)
        signals.training = True
        signals.reinstall()
        os.kill(os.getpid(), number)
        assert (signals.name, calls) == (signal.Signals(number).name, [number])
