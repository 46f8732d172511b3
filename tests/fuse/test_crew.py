"""How threads take the lead from each other, with a socket in the place of the device."""

import socket
import threading

from imagefs.fuse.crew import Crew
from imagefs.fuse.replies import BODY, Reply
from imagefs.fuse.session import Session
from imagefs.fuse.signals import Stop
from tests.support.memfs import MemFs
from tests.support.polling import soon


class _Scripted(Session):
    """The first request is answered once the second is being answered, that once a third came."""

    def __init__(self) -> None:
        super().__init__(MemFs({}))
        self.came = {number: threading.Event() for number in (1, 2, 3)}

    def handle(self, request: bytes) -> Reply:
        number = request[0]
        self.came[number].set()
        if number < 3:
            assert self.came[number + 1].wait(30)
        return (request,)


def test_who_was_relieved_ends_while_the_next_leader_is_at_work() -> None:
    """His is not the right to lead that the next one has put down: none is answered for good."""
    kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stop, session = Stop(), _Scripted()
    crew = Crew(device.fileno(), stop, session)
    running = threading.Thread(target=crew.run)
    running.start()
    replies = []
    for number in (1, 2):
        kernel.send(bytes([number]) * BODY)
        assert session.came[number].wait(30)
    replies.append(kernel.recv(BODY)[0])
    kernel.send(bytes([3]) * BODY)
    replies += [kernel.recv(BODY)[0] for _ in range(2)]
    assert (replies[0], sorted(replies)) == (1, [1, 2, 3])
    assert soon(lambda: not crew.busy)
    stop.ask()
    running.join(30)
    assert not running.is_alive()
    stop.close()
    kernel.close()
    device.close()
