"""A TCP proxy in front of the server, for what happens on the way: delay, silence, cuts.

It understands just enough of the protocol to know in which reply a named function's outcome
travels. It runs on a loop of its own, in a thread.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self

CHUNK = 65536  # bytes


class Conversation:
    """One client's connection."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.statements: dict[bytes, bytes] = {}  # prepared ones, by name
        self.doomed = False  # whether the next reply is not to arrive
        self._buffer = b""
        self._started = False

    def cut(self) -> None:
        """End it on both sides at once, with a reset."""
        for writer in (self.client, self.server):
            writer.transport.abort()

    def asks_for(self, data: bytes, function: bytes) -> bool:
        """Read what the client sends; tell whether it calls that function."""
        self._buffer += data
        found = False
        while True:
            head = 1 if self._started else 0  # the first message has no type
            if len(self._buffer) < head + 4:
                return found
            size = head + int.from_bytes(self._buffer[head : head + 4], "big")
            if len(self._buffer) < size:
                return found
            message, self._buffer = self._buffer[:size], self._buffer[size:]
            if not self._started:
                self._started = True
                continue
            kind, body = message[:1], message[5:]
            if kind == b"P":
                name, text, _ = body.split(b"\0", 2)
                self.statements[name] = text
            elif kind == b"Q":
                found = found or function in body
            elif kind == b"B":
                name = body.split(b"\0", 2)[1]
                found = found or function in self.statements.get(name, b"")


class Proxy:
    """Listens on loopback and passes on to a Unix socket, as well as it is told to."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._conversations: set[Conversation] = set()
        self._flowing = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._delay = 0.0
        self._swallow: bytes | None = None
        self._keep_open = False
        self.swallowed = threading.Event()
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(self, *error: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, dbname: str) -> str:
        """Return the connection string of a database behind the proxy."""
        return (
            f"postgresql://postgres@127.0.0.1:{self.port}/{dbname}"
            "?sslmode=disable&gssencmode=disable"
        )

    def silence(self, *directions: str) -> None:
        """Let nothing through, ``up`` to the server, ``down`` to the clients, or both."""
        self._do(self._set_flow(directions, False))

    def heal(self) -> None:
        """Let everything through again, also what was held back."""
        self._delay = 0.0
        self._do(self._set_flow(("up", "down"), True))

    def delay(self, seconds: float) -> None:
        """Hold back each chunk, in both directions, for so long."""
        self._delay = seconds

    def cut(self) -> None:
        """Reset every connection there is."""
        self._do(self._cut())

    def swallow_reply(self, function: str, keep_open: bool = False) -> None:
        """Lose the reply to the next call of this function, when the server has done it.

        Then the connection is cut, or it goes on to look alive and says nothing any more.
        """
        self.swallowed.clear()
        self._keep_open = keep_open
        self._swallow = function.encode()

    def _do(self, work: Awaitable[Any]) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)  # type: ignore[arg-type]
        return future.result(30)

    async def _open(self) -> None:
        for event in self._flowing.values():
            event.set()
        self._listener = await asyncio.start_server(self._converse, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._listener.close()
        await self._cut()
        for event in self._flowing.values():
            event.set()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(tasks, timeout=5) if tasks else None

    async def _cut(self) -> None:
        for conversation in list(self._conversations):
            conversation.cut()

    async def _set_flow(self, directions: tuple[str, ...], flowing: bool) -> None:
        for direction in directions:
            event = self._flowing[direction]
            event.set() if flowing else event.clear()

    async def _converse(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            from_server, server = await asyncio.open_unix_connection(str(self._socket))
        except OSError:
            client.transport.abort()
            return
        conversation = Conversation(client, server)
        self._conversations.add(conversation)
        try:
            await asyncio.gather(
                self._pass_on(conversation, "up", reader, server, self._look_up),
                self._pass_on(conversation, "down", from_server, client, self._look_down),
            )
        finally:
            self._conversations.discard(conversation)

    async def _pass_on(
        self,
        conversation: Conversation,
        direction: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        look: Callable[[Conversation, bytes], bool],
    ) -> None:
        try:
            while data := await reader.read(CHUNK):
                await self._flowing[direction].wait()
                if self._delay:
                    await asyncio.sleep(self._delay)
                if look(conversation, data):
                    writer.write(data)
                    await writer.drain()
        except OSError:
            conversation.cut()
        else:
            writer.close()

    def _look_up(self, conversation: Conversation, data: bytes) -> bool:
        called = conversation.asks_for(data, self._swallow or b"\0")
        if called and self._swallow:
            self._swallow = None
            conversation.doomed = True
        return True

    def _look_down(self, conversation: Conversation, data: bytes) -> bool:
        if not conversation.doomed:
            return True
        if data.endswith(b"Z\0\0\0\5I"):  # ready for the next query: it has committed
            self.swallowed.set()
            if not self._keep_open:
                conversation.cut()
        return False
