"""The thread that minds time: deadlines, silent connections, what others change in the process."""

from rota.worker.clock import clock
from rota.worker.floor import Floor
from rota.worker.link import Link
from rota.worker.surroundings import restore

LOOK_PERIOD = 1.0  # seconds between two looks at what cannot wake the thread that looks


class Watch:
    """Ends what is overdue.

    It asks the database nothing, so whatever becomes of that, a timeout is noticed in time.
    """

    def __init__(self, floor: Floor, links: list[Link]) -> None:
        self._floor = floor
        self._links = links

    def run(self) -> None:
        """Watch until the worker has stopped."""
        while not self._floor.closing.is_set():
            self._floor.time_limits.wait(self._until_next_look())
            self._floor.time_limits.clear()
            restore()
            self._end_overdue()
            for link in self._links:
                link.cut_if_silent()

    def _until_next_look(self) -> float:
        deadlines = [
            job.deadline
            for desk in self._floor.desks
            for job in list(desk.timed)
            if job.deadline is not None
        ]
        return max(0.0, min([LOOK_PERIOD, *(deadline - clock() for deadline in deadlines)]))

    def _end_overdue(self) -> None:
        now = clock()
        for desk in self._floor.desks:
            for job in list(desk.timed):
                if job.deadline is not None and now >= job.deadline:
                    desk.time_out(job)
