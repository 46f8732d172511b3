"""A real server whose every answer is bytes of the test's own, one connection an answer."""

import socket
import threading
from contextlib import suppress
from typing import Self


class ScriptedServer:
    """Accepts on a listening socket; what is answered, a subclass says in `answer_to`."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            thread = threading.Thread(target=self._answer, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self.answer_to(connection)

    def answer_to(self, connection: socket.socket) -> None:
        """Read a request and send what is to be said; the connection is closed behind it."""
        raise NotImplementedError
