"""Leases: one holder at a time; a dead one is replaced, a suspended one writes nothing more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mgcl_core.support import leases
from mgcl_core.support.files import atomic, write_json
from mgcl_core.support.leases import LeaseLost, holder, lease

#: Adds one to a number in a file again and again, which loses additions unless one process at a time does. No lock of
#: the operating system excludes anybody here, as on many shared folders.
ADDER = """
import fcntl, sys, time
from pathlib import Path
from mgcl_core.support import leases

fcntl.flock = fcntl.lockf = lambda *_: None
place = Path(sys.argv[1])
leases.LEASE_SECONDS = float(sys.argv[3])
for _ in range(int(sys.argv[2])):
    with leases.lease(place / "sum"):
        number = int((place / "number").read_text())
        time.sleep(0.002)
        (place / "number").write_text(str(number + 1))
"""
HOLD = """
import sys, time
from pathlib import Path
from mgcl_core.support import leases

leases.LEASE_SECONDS = float(sys.argv[2])
with leases.lease(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def start(code: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def held(tmp_path):
    """Function of seconds: a process that holds ``run`` in a lease of that length."""
    processes = []

    def hold(seconds: float) -> subprocess.Popen:
        processes.append(start(HOLD, tmp_path / "run", seconds))
        assert processes[-1].stdout.readline() == "held\n"
        return processes[-1]

    yield hold
    for process in processes:
        process.kill()
        process.communicate()


def take(path: Path, **settings) -> float:
    """Seconds until ``path`` is held."""
    started = time.monotonic()
    with lease(path, **settings):
        return time.monotonic() - started


def as_another_host(path: Path) -> None:
    """Make the lease of ``path`` one of a host of which nothing is known but its record."""
    (file,) = path.parent.glob(f"{path.name}.lease-*")
    times = file.stat()
    file.write_text(json.dumps({**json.loads(file.read_text()), "host": "elsewhere", "place": "elsewhere"}))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_one_process_at_a_time_where_flock_excludes_nobody(tmp_path):
    (tmp_path / "number").write_text("0")
    adders = [start(ADDER, tmp_path, 20, 120) for _ in range(4)]
    assert [adder.wait(60) for adder in adders] == [0] * 4
    assert (tmp_path / "number").read_text() == "80" and holder(tmp_path / "sum") is None
    assert [path.name for path in tmp_path.glob("sum.lease-*")] == ["sum.lease-80"]


def test_threads_of_a_process_exclude_each_other(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(5):
            with lease(tmp_path / "run"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20


def test_what_is_held_is_not_given_to_who_does_not_wait_and_says_by_whom(tmp_path, held):
    process = held(120)
    with pytest.raises(BlockingIOError, match="held by another process"):
        take(tmp_path / "run", wait=False)
    found = holder(tmp_path / "run")
    assert found.process == process.pid and found.host == os.uname().nodename and time.time() - found.seen < 60


def test_a_process_that_was_killed_here_is_replaced_at_once(tmp_path, held):
    process = held(120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert take(tmp_path / "run") < 60


def test_a_dead_host_is_replaced_when_it_gives_no_sign_of_life(tmp_path, held, monkeypatch, caplog):
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.0)
    process = held(1)
    as_another_host(tmp_path / "run")
    with pytest.raises(BlockingIOError):
        take(tmp_path / "run", wait=False)  # it touches its file
    process.kill()
    process.wait()
    assert take(tmp_path / "run") >= 1.0
    assert f"run is held by process {process.pid} of " in caplog.text and " on elsewhere, since 20" in caplog.text


def test_a_host_that_lives_is_waited_for(tmp_path, held, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.6)
    held(0.6)
    as_another_host(tmp_path / "run")
    contender = threading.Thread(target=take, args=[tmp_path / "run"], daemon=True)
    contender.start()
    contender.join(2.5)
    assert contender.is_alive()


def test_a_number_that_another_process_uses_now_is_no_sign_of_life(tmp_path, held):
    process = held(120)
    (file,) = tmp_path.glob("run.lease-*")
    file.write_text(json.dumps({**json.loads(file.read_text()), "start": "1"}))
    assert process.poll() is None and take(tmp_path / "run") < 60


def test_who_was_suspended_and_replaced_writes_nothing_more(tmp_path, held, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.3)
    monkeypatch.setattr(os, "utime", lambda *_, **__: None)  # no touch arrives, as of a process that is suspended
    run = tmp_path / "run"
    with lease(run):
        write_json(run / "mine.json", 1)
        held(0.3)
        with pytest.raises(LeaseLost, match="run: another process took it over"):
            write_json(run / "mine.json", 2)
        with pytest.raises(LeaseLost), atomic(run / "deeper" / "file") as path:
            path.write_text("late")
        write_json(tmp_path / "elsewhere.json", 3)
    assert (run / "mine.json").read_text() == "1\n"
    assert not [path for path in run.rglob("*") if path.is_file() and path.name != "mine.json"]


@pytest.mark.parametrize("left", ["", "{", "[]", '{"host": 1}'])
def test_a_file_that_says_nothing_is_waited_for_as_a_host_that_is_silent(tmp_path, monkeypatch, left):
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.5)
    (tmp_path / "run.lease-7").write_text(left)
    assert holder(tmp_path / "run") is None and take(tmp_path / "run") >= 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["run.lease-8"]


def test_killed_at_any_moment_it_is_given_on(tmp_path):
    """Processes that are killed now and then lose no addition of the others, and are never waited for."""
    (tmp_path / "number").write_text("0")
    for moment in range(6):
        adders = [start(ADDER, tmp_path, 10_000, 120) for _ in range(2)]
        until = time.monotonic() + 30
        before = int((tmp_path / "number").read_text() or 0)
        while int((tmp_path / "number").read_text() or before) < before + 5 + moment and time.monotonic() < until:
            time.sleep(0.01)
        for adder in adders:
            adder.kill()
            adder.wait()
        number = (tmp_path / "number").read_text()
        (tmp_path / "number").write_text(number or str(before))  # one was killed while it wrote
        assert int((tmp_path / "number").read_text()) > before
    assert take(tmp_path / "sum") < 60
