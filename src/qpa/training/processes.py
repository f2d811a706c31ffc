"""The processes that train one run together: which of them this is, and starting them all on this machine.

They tell each other apart by torchrun's environment variables, whether torchrun has started them or `start`.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from qpa.errors import UserError

GRACE = 15  # seconds that the others have to end by themselves when one has ended badly
PATIENCE = 0.1  # seconds between two looks
PARENT = "QPA_PARENT"  # in the environment: the process that has started this one
LOST = 3  # exit code of a process that ends because another one has


def started() -> bool:
    """Whether this process is one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """Which of them it is, 0 where it is alone: the one that writes files and speaks."""
    return int(os.environ["RANK"]) if started() else 0


def end_with_parent() -> None:
    """From now on end as on SIGTERM, with a checkpoint, once the process that `start` ran in is gone: nobody else would end this one."""

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(PATIENCE)
        os.kill(os.getpid(), signal.SIGTERM)

    if parent := os.environ.get(PARENT):
        threading.Thread(target=watch, args=(int(parent),), daemon=True).start()


def start(processes: int) -> None:
    """Run this very command in several processes, and end with their exit code; signals are passed on to all.

    Raises:
        UserError: one of them was killed, or failed where the first did not.
    """
    with tempfile.TemporaryDirectory() as place:
        errors = [Path(place) / str(number) for number in range(processes)]
        running = _start_all(processes, errors)
        before = {number: signal.signal(number, _pass_on(running)) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
        try:
            first = _wait(running)
        finally:
            for process in running:
                process.kill()
                process.wait()
            for number, handler in before.items():
                signal.signal(number, handler)
        if first is not None:
            _explain(first, running, errors)


def _start_all(processes: int, errors: list[Path]) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "qpa"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), PARENT: str(os.getpid())}
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
    command = [sys.executable, *sys.orig_argv[1:]]
    running = []
    for number, path in enumerate(errors):
        environment = threads | dict(os.environ) | shared | {"RANK": str(number), "LOCAL_RANK": str(number)}
        with path.open("wb") as file:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": file} if number else {}
            # a session of its own: Ctrl-C in a terminal reaches it once, from here
            running.append(subprocess.Popen(command, env=environment, start_new_session=True, **quiet))
    return running


def _pass_on(running: list[subprocess.Popen[bytes]]) -> Callable[[int, FrameType | None], None]:
    def handler(number: int, frame: FrameType | None) -> None:
        for process in running:
            process.send_signal(number)

    return handler


def _wait(running: list[subprocess.Popen[bytes]]) -> int | None:
    """The number of the process that the others were lost by, once all have ended or have had their time; None if all went well."""
    deadline = float("inf")
    while any(process.poll() is None for process in running) and time.monotonic() < deadline:
        if deadline == float("inf") and any(process.returncode for process in running):
            deadline = time.monotonic() + GRACE
        time.sleep(PATIENCE)
    bad = [number for number, process in enumerate(running) if process.returncode]
    return min(bad, key=lambda number: running[number].returncode == LOST, default=None)


def _explain(first: int, running: list[subprocess.Popen[bytes]], errors: list[Path]) -> None:
    """End as the processes did; say why where the first of them, which speaks for all, could not."""
    spoken, code = running[0].returncode, running[first].returncode
    if code > 0 and spoken > 0 and spoken != LOST:
        sys.exit(spoken)
    said = errors[first].read_text(errors="replace").strip().splitlines()
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    reason = f" ({said[-1].removeprefix('qpa: ')})" if said else ""
    raise UserError(f"process {first} of {len(running)} {how}{reason}; ckpt=last goes on from the last good checkpoint")
