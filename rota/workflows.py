"""Workflows from Python: jobs that wait for one another, enqueued in one call.

    with workflow(conn, "nightly") as w:
        extracted = w.add(extract)
        parts = [w.add(load, {"region": region}, after=extracted) for region in ("eu", "us")]
        w.add(report, after=parts)
        w.add("tell", after="all", if_parent_fails="run")

Nothing is sent before the block has ended, and nothing at all if it raises.
"""

import json
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from rota.client import (
    ENQUEUE,
    Call,
    EnqueuedJob,
    arguments_of,
    as_text,
    is_asynchronous,
    name_of,
    run,
    run_async,
)
from rota.tracing import Sending, sending

WORKFLOW = {
    name: type_ for name, type_ in ENQUEUE.items() if name not in ("unique_for", "replace")
} | {"node": "text", "if_parent_fails": "text"}
AS_JSON = ("payload", "headers")  # that stand as they are in the document
COLUMNS = "workflow_id, job_id, node, state"
LONGEST_NAME = 190  # characters that are kept of a task's name, for a node of the same name


class Node:
    """A job of a workflow, for others to depend on.

    Attributes:
        task: the name of its handler.
        node: its name in the workflow; where it was given none and others depend on it, that of its
            task, and a number if need be.
    """

    def __init__(self, task: str, node: str | None) -> None:
        self.task = task
        self.node = node
        self._job_id: int | None = None
        self._state: str | None = None

    def __repr__(self) -> str:
        """Name the job, with its id once it has one."""
        return f"<Node {self.node or self.task!r}, job {self._job_id}>"

    @property
    def id(self) -> int:
        """The job's id.

        Raises:
            RuntimeError: it is not enqueued yet; that happens when the block of the workflow ends.
        """
        return self._told(self._job_id)

    @property
    def job_id(self) -> int:
        """The same id, as ``EnqueuedJob`` calls it."""
        return self.id

    @property
    def state(self) -> str:
        """WAITING or SCHEDULED: what the job was when it was enqueued.

        Raises:
            RuntimeError: it is not enqueued yet.
        """
        return self._told(self._state)

    def _told(self, value: Any) -> Any:
        if value is None:
            raise RuntimeError(f"{self!r} is not enqueued yet")
        return value

    def _enqueued(self, job_id: int, state: str) -> None:
        self._job_id = job_id
        self._state = state


class Graph:
    """Jobs that are to be enqueued together, in the order in which they were added."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._documents: list[dict[str, str]] = []  # JSON by the names of members
        self._headers: list[Any] = []
        self._after: list[str | list[Node | str | int]] = []

    def __len__(self) -> int:
        """Count the jobs."""
        return len(self._nodes)

    def add(self, task: Any, payload: Any = None, *, after: Any = None, **options: Any) -> Node:
        """Add a job.

        Args:
            task: the name of its handler, or what ``@task`` made of it, whose options hold where
                none are given here.
            payload: any JSON value; None is left out, which is an empty object.
            after: on what it depends: what ``add`` returned, the id of any job that there is, or a
                job (``rota.enqueue``'s answer, a handler's own), the name of a node that was added
                before, or several of these; or ``"all"`` that were added before, or ``"previous"``.
            options: ``queue``, ``run_at`` (not before), ``priority``, ``max_retries``, ``timeout``,
                ``unique_key``, ``headers`` and ``key``, as ``rota.enqueue`` takes them; ``node``,
                its name in the workflow; and ``if_parent_fails``: ``"cancel"``, unless this is
                given, or ``"run"``.

        Returns:
            The job, for others to depend on.

        Raises:
            TypeError: there is no such option, or ``after`` is nothing to depend on.
            ValueError: a value that PostgreSQL could not read, or a job of another workflow that is
                not enqueued yet.
        """
        named = {**getattr(task, "options", {}), **options}
        named |= {"task": name_of(task), "payload": payload}
        texts = arguments_of("a workflow's job", WORKFLOW, named)
        _, node_name = texts.get("node", ("text", None))
        node = Node(texts["task"][1] if "task" in texts else "", node_name)
        parents = self._parents(after)
        self._headers.append(named.get("headers"))
        self._documents.append(
            {
                name: text if name in AS_JSON else json.dumps(text, ensure_ascii=False)
                for name, (_, text) in texts.items()
                if name not in ("headers", "node")
            }
        )
        self._after.append(parents)
        self._nodes.append(node)
        return node

    def document(self, span: Sending) -> str:
        """Return the jobs as the database takes them."""
        self._name_parents()
        jobs = []
        for node, members, given, after in zip(
            self._nodes, self._documents, self._headers, self._after, strict=True
        ):
            members = dict(members)
            if (headers := span.headers(given)) is not None:
                members["headers"] = as_text("headers", "jsonb", headers)
            if node.node is not None:
                members["node"] = json.dumps(node.node, ensure_ascii=False)
            if after:
                members["depends_on"] = json.dumps(
                    after if isinstance(after, str) else [_reference(parent) for parent in after],
                    ensure_ascii=False,
                )
            jobs.append("{" + ",".join(f'"{name}":{text}' for name, text in members.items()) + "}")
        return "[" + ",".join(jobs) + "]"

    def _parents(self, after: Any) -> str | list[Node | str | int]:
        """Return on what a job is to depend."""
        if after is None:
            return []
        if isinstance(after, str) and after in ("all", "previous"):
            return str.__str__(after)
        one = isinstance(after, str | EnqueuedJob) or not isinstance(after, Iterable)
        return [self._parent(parent) for parent in ([after] if one else after)]

    def _parent(self, parent: Any) -> Node | str | int:
        if isinstance(parent, str):
            return str.__str__(parent)
        if isinstance(parent, Node) and any(parent is node for node in self._nodes):
            return parent
        if isinstance(parent, Node) and parent._job_id is None:
            raise ValueError(f"{parent!r} is of another workflow, and not enqueued yet")
        job_id = getattr(parent, "id", parent)
        if not isinstance(job_id, int) or isinstance(job_id, bool):
            raise TypeError(f"a job cannot depend on {parent!r}")
        return int(job_id)

    def _name_parents(self) -> None:
        """Give a name to each node that others depend on and that has none."""
        taken = {node.node for node in self._nodes}
        depended_on = [it for after in self._after for it in after if isinstance(it, Node)]
        for node in depended_on:
            if node.node is None:
                base = name = node.task[:LONGEST_NAME]
                number = 1
                while name in taken:
                    number += 1
                    name = f"{base}-{number}"
                node.node = name
                taken.add(name)


class Workflow(Graph):
    """A workflow that is being put together, in a ``with`` block; see ``workflow``."""

    def __init__(self, conn: Any, name: str | None) -> None:
        super().__init__()
        self.name = name
        self._conn = conn
        self._id: int | None = None

    def __repr__(self) -> str:
        """Name the workflow, with its id once it has one."""
        return f"<Workflow {self.name!r}, id {self._id}, {len(self)} jobs>"

    @property
    def id(self) -> int:
        """The workflow's id.

        Raises:
            RuntimeError: it is not enqueued yet, or no job was added to it.
        """
        if self._id is None:
            raise RuntimeError(f"{self!r} is not enqueued")
        return self._id

    def __enter__(self) -> "Workflow":
        """Begin.

        Raises:
            TypeError: the connection is asynchronous.
        """
        if is_asynchronous(self._conn):
            kind = type(self._conn).__qualname__
            raise TypeError(f"{kind} is asynchronous: async with workflow(...)")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Enqueue what was added, in the transaction of the connection, unless the block raised."""
        if kind is None and len(self):
            with self._sending() as span:
                self._note(run(self._conn, self._call(span)))

    async def __aenter__(self) -> "Workflow":
        """Begin, with an asynchronous connection.

        Raises:
            TypeError: the connection is not asynchronous.
        """
        if not is_asynchronous(self._conn):
            kind = type(self._conn).__qualname__
            raise TypeError(f"{kind} is not asynchronous: with workflow(...)")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Enqueue what was added, unless the block raised."""
        if kind is None and len(self):
            with self._sending() as span:
                self._note(await run_async(self._conn, self._call(span)))

    def _sending(self) -> Sending:
        return sending(None, None, number=len(self))

    def _call(self, span: Sending) -> Call:
        arguments = {"jobs": ("jsonb", self.document(span))}
        if self.name is not None:
            arguments["name"] = ("text", as_text("name", "text", self.name))
        return Call("enqueue_workflow", arguments, COLUMNS)

    def _note(self, rows: list[tuple[Any, ...]]) -> None:
        for node, (workflow_id, job_id, _, state) in zip(self._nodes, rows, strict=True):
            self._id = workflow_id
            node._enqueued(job_id, state)


def workflow(conn: Any, name: str | None = None) -> Workflow:
    """Enqueue jobs that wait for one another, in the transaction of ``conn``, all or none.

    ``with workflow(conn, "nightly") as w:``, or ``async with`` on an asynchronous connection. What
    is added in the block (``Graph.add``) is enqueued at its end, in one call; if the block raises,
    nothing is. Afterwards ``w.id`` and the ``id`` of what ``add`` returned are known.

    Args:
        conn: the caller's own connection, as ``rota.enqueue`` takes it.
        name: for people to read.

    Raises:
        TypeError: the connection is of the other kind.
        The driver's own error at the end of the block, if the database refuses the workflow:
        SQLSTATE RTV01 for a wrong argument, RTN01 for an unknown job, RTC01 for one that did not
        complete, RTC03 for a unique key that is taken.
    """
    return Workflow(conn, name)


def _reference(parent: Node | str | int) -> str | int:
    """Return how a document names a job on which another depends."""
    return parent.node or "" if isinstance(parent, Node) else parent
