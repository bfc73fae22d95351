"""How the server ends: whoever asks for it, however often, and whatever it is doing."""

import time

from vllm_locust.simulator.config import configure
from vllm_locust.simulator.server import Server


class SlowWaker:
    """Takes so long to wake a busy server that this one sees by itself that it should stop."""

    def __init__(self, sock):
        self.sock = sock

    def send(self, data):
        time.sleep(0.05)
        self.sock.send(data)

    def close(self):
        self.sock.close()


def test_a_busy_server_may_end_before_it_is_woken(serve):
    with serve(sse_keep_alive_interval_s=0.004) as running:
        running.server._waker = SlowWaker(running.server._waker)
        running.server.stop()


def test_stopping_again_changes_nothing(serve):
    with serve() as running:
        running.server.stop()
        running.server.stop()
    running.server.stop()
    running.server.close()


def test_a_server_that_never_served_closes_what_it_opened():
    server = Server(configure(port=0))
    server.close()
    server.close()
