"""Several processes of one program on one machine: ``--processes`` of the worker and the API."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterable

from rota.worker.clock import clock
from rota.worker.link import Pause
from rota.worker.log import log

CANNOT_START = 2  # the exit code of a worker that would meet the same obstacle again
STEADY = 30.0  # seconds; a process that ran for so long is replaced as if it were the first


class Supervisor:
    """Keeps a number of processes running until told to stop.

    Each is a program of its own, started afresh: nothing is forked that has connections, threads
    or locks, and nothing but the database is shared.

    All of them hold the reading end of a pipe whose writing end only we hold. When that is closed,
    by us or by our death, they stop gently. So they learn it once, even where a terminal or a
    service manager has sent each process of ours the same signal, and nobody outlives us unseen.

    Args:
        commands: what starts each; it is given ``--lifeline`` with the reading end.
        files: descriptors that they get from us, such as sockets that listen.
    """

    def __init__(self, commands: list[list[str]], files: Iterable[int] = ()) -> None:
        self._commands = commands
        self._files = files
        self._stop = threading.Event()
        self._lifeline, self._our_end = os.pipe()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._codes: set[int] = set()  # of those that ended after we were told to stop

    def run(self) -> int:
        """Keep them running; return the exit code, 0 if all of them stopped as they should."""
        log.info("starting processes", extra={"fields": {"processes": len(self._commands)}})
        threads = [
            threading.Thread(target=self._keep, args=[command], daemon=True)
            for command in self._commands
        ]
        for thread in threads:
            thread.start()
        self._stop.wait()

        os.close(self._our_end)
        for thread in threads:
            thread.join()
        log.info("all processes have stopped", extra={"fields": {"codes": sorted(self._codes)}})
        if CANNOT_START in self._codes:
            return CANNOT_START
        return 0 if self._codes <= {0} else 1

    @property
    def stopping(self) -> bool:
        """Whether they were told to stop."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Have all of them stop gently; safe in a signal handler."""
        self._stop.set()

    def kill(self) -> None:
        """End all of them at once; safe in a signal handler."""
        for process in list(self._running):
            process.kill()

    def _keep(self, command: list[str]) -> None:
        """Keep one process running, and start another when it ends."""
        pause = Pause()
        while not self._stop.is_set():
            began = clock()
            code = self._run_one(command)
            if code == CANNOT_START:  # nor can the next one: better to end than to hide that
                self._stop.set()
            if self._stop.is_set():
                self._codes.add(code)
                return
            if clock() - began > STEADY:
                pause = Pause()
            seconds = pause.next()
            log.error(
                "a process has ended, another is started",
                extra={"fields": {"ended": _ending(code), "seconds": round(seconds, 3)}},
            )
            self._stop.wait(seconds)

    def _run_one(self, command: list[str]) -> int:
        """Start one process and wait for its end; return its exit code, or minus the signal."""
        try:
            process = subprocess.Popen(
                [*command, "--lifeline", str(self._lifeline)],
                pass_fds=[self._lifeline, *self._files],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # out of the reach of the terminal's Ctrl-C, which we get
            )
        except OSError:
            log.exception("cannot start a process")
            return 1
        self._running.add(process)
        code = process.wait()
        self._running.discard(process)
        return code


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
