"""Stop signals."""

from __future__ import annotations

import os
import signal

import pytest

from rl.stop import Interrupted, Stopper


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_outside_of_waiting_only_sets_the_flag(number: signal.Signals) -> None:
    with Stopper() as stopper:
        os.kill(os.getpid(), number)
        assert stopper.requested
        assert stopper.signal == number
        with pytest.raises(Interrupted), stopper.interruptible():
            pytest.fail("a requested stop must not start to wait")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_waiting_cuts_the_wait_short(number: signal.Signals) -> None:
    with Stopper() as stopper, pytest.raises(Interrupted, match=number.name), stopper.interruptible():
        os.kill(os.getpid(), number)
        signal.pause()


def test_a_signal_in_a_shelter_waits_for_its_end() -> None:
    done = list[str]()
    with Stopper() as stopper:
        with pytest.raises(Interrupted), stopper.interruptible():
            with stopper.sheltered():
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("the block")
            pytest.fail("not here any more")
        with stopper.sheltered():
            done.append("where nothing waits")
    assert done == ["the block", "where nothing waits"]


def test_a_shelter_that_nobody_disturbs_changes_nothing() -> None:
    with Stopper() as stopper, pytest.raises(Interrupted, match="SIGTERM"), stopper.interruptible():
        with stopper.sheltered():
            pass
        os.kill(os.getpid(), signal.SIGTERM)


def test_what_compiled_code_makes_of_it_is_an_interruption_still() -> None:
    """Python tells of an exception that C code has left behind as the cause of a ``SystemError``."""
    with Stopper() as stopper, pytest.raises(Interrupted, match="SIGINT"), stopper.interruptible():
        raise SystemError("<CoreWorker.wait> returned a result with an exception set") from Interrupted("SIGINT")
    with Stopper() as stopper, pytest.raises(SystemError), stopper.interruptible():
        raise SystemError("of another kind") from ValueError()


def test_a_second_signal_ends_the_run_at_once() -> None:
    with Stopper(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stopper():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_claim_takes_the_handlers_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stopper() as stopper:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stopper.claim()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopper.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
