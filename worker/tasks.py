"""``@task``: which function handles which jobs, and how it is enqueued by its arguments."""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rota.client import ENQUEUE, EnqueuedJob, enqueue, enqueue_async
from rota.worker.job import Job

registry: dict[str, "Task"] = {}

# As annotations of a first parameter, whose author thinks that it is the first argument.
_NO_JOB = [
    spelt for kind in (str, int, float, bool, dict, list, bytes) for spelt in (kind, kind.__name__)
]
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Task:
    """A handler under the name that its jobs have.

    Called, it is the handler. Its first parameter is always the job; what other parameters it has
    are the keys of the payload, which is an object then.
    """

    def __init__(
        self,
        name: str,
        handler: Callable[..., Any],
        options: Mapping[str, Any],
    ) -> None:
        """Take the handler, and what ``enqueue`` passes on when it is not told otherwise.

        Raises:
            TypeError: the handler's parameters cannot be the job and the keys of a payload.
        """
        self.name = name
        self.handler = handler
        self.is_coroutine = any(
            inspect.iscoroutinefunction(it)
            for it in (inspect.unwrap(handler), type(handler).__call__)  # or an object of a class
        )
        self.options = dict(options)
        self._job_name, self._arguments = _parameters(name, handler)
        functools.update_wrapper(self, handler, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the handler itself, as a test may."""
        return self.handler(*args, **kwargs)

    def __repr__(self) -> str:
        """Name the task."""
        return f"<Task {self.name!r}>"

    def run(self, job: Job) -> Any:
        """Call the handler for a job, with the arguments that its payload holds.

        Raises:
            TypeError: the payload does not fit the handler's parameters.
        """
        if self._arguments is None:
            return self.handler(job)
        payload = job.payload
        if not isinstance(payload, dict):
            raise TypeError(
                f"the payload of {self.name} must be an object with the arguments of its handler"
            )
        self._bind((), payload)
        return self.handler(job, **payload)

    def configure(self, **options: Any) -> "Task":
        """Return this task with other options for ``enqueue``.

        Args:
            options: ``queue``, ``run_at``, ``priority``, ``max_retries``, ``timeout``, ``key``,
                ``headers``, ``unique_key``, ``unique_for`` or ``replace``, as ``rota.enqueue``
                takes them.

        Raises:
            TypeError: there is no such option.
        """
        _check(options)
        other = copy.copy(self)
        other.options = {**self.options, **options}
        return other

    def enqueue(self, conn: Any, /, *args: Any, **kwargs: Any) -> EnqueuedJob:
        """Enqueue a job for this handler, in the transaction of ``conn``: see ``rota.enqueue``.

        Args:
            conn: the caller's own connection.
            args: the handler's arguments, without the job.
            kwargs: the same by name.

        Raises:
            TypeError: the handler does not take these arguments.
        """
        return enqueue(conn, self.name, self._payload(args, kwargs), **self.options)

    async def enqueue_async(self, conn: Any, /, *args: Any, **kwargs: Any) -> EnqueuedJob:
        """Do what ``enqueue`` does, on an asynchronous connection."""
        payload = self._payload(args, kwargs)
        return await enqueue_async(conn, self.name, payload, **self.options)

    def _payload(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if self._job_name in kwargs:
            raise TypeError(
                f"{self._job_name!r} is the job in the handler of {self.name}: write"
                f" def handler(job, {self._job_name})"
            )
        if self._arguments is not None:
            return self._bind(args, kwargs)
        if args:
            raise TypeError(
                f"{self.name} takes its arguments by name: its handler has no parameter but the job"
            )
        return kwargs

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        assert self._arguments is not None
        try:
            bound = self._arguments.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"the arguments do not fit {self.name}: {error}") from None
        arguments = dict(bound.arguments)
        for parameter in self._arguments.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments |= arguments.pop(parameter.name, {})
        return arguments


def task(name: str, **options: Any) -> Callable[[Callable[..., Any]], Task]:
    """Register a function as the handler of the jobs whose task is ``name``.

    A plain function runs in a thread of its own. It is told to stop by ``Job.cancelled``, and
    nothing but itself can stop it.

    An ``async def`` runs on the event loop that all such handlers of a process share, hundreds at
    one time if ``--concurrency`` allows that. It is stopped with ``asyncio.CancelledError`` when
    its timeout has passed, when somebody cancels the job, and when its lease is lost. While it
    computes, or waits in a call that is not awaited, the others stand still, though no lease is
    lost for that; ``await asyncio.to_thread(...)`` keeps such a call out of their way.

    Args:
        name: the name that producers use, from any language.
        options: what ``Task.enqueue`` passes on: ``queue``, ``run_at``, ``priority``,
            ``max_retries``, ``timeout``, ``key``, ``headers``, ``unique_key``, ``unique_for`` or
            ``replace``. Jobs that are enqueued in another way do not have them.

    Raises:
        TypeError: there is no such option, or the handler's parameters cannot be those of a
            payload.
        ValueError: another function handles that task already.
    """
    if not isinstance(name, str):
        raise TypeError('a task has a name: @task("send_email")')
    name = str.__str__(name)  # of a member of an enumeration, what it stands for
    _check(options)

    def register(handler: Callable[..., Any]) -> Task:
        if isinstance(handler, Task):  # one that has another name, too
            handler = handler.handler
        if name in registry and registry[name].handler is not handler:
            raise ValueError(f"task {name!r} has a handler already: {registry[name].handler}")
        registry[name] = Task(name, handler, options)
        return registry[name]

    return register


OPTIONS = ENQUEUE.keys() - {"task", "payload"}


def _check(options: Mapping[str, Any]) -> None:
    if unknown := sorted(set(options) - OPTIONS):
        raise TypeError(f"a task has no option {unknown[0]!r}; it has {', '.join(sorted(OPTIONS))}")


def _parameters(
    name: str, handler: Callable[..., Any]
) -> tuple[str | None, inspect.Signature | None]:
    """Return the name of the job's parameter, and those after it.

    No others mean that any payload will do, and no name that the handler does not tell.
    """
    try:
        parameters = list(inspect.signature(handler).parameters.values())
    except ValueError:  # something built in, which does not tell
        return None, None
    if parameters and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
        return parameters[0].name, None
    if (
        not parameters
        or parameters[0].kind not in _POSITIONAL
        or parameters[0].annotation in _NO_JOB
    ):
        raise TypeError(f"the handler of {name} must take the job as its first parameter")
    first, *rest = parameters
    for parameter in rest:
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise TypeError(f"the handler of {name} must take {parameter.name!r} by name")
    rest = [p for p in rest if p.kind is not inspect.Parameter.VAR_POSITIONAL]
    return first.name, inspect.Signature(rest) if rest else None
