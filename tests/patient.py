"""A second locustfile: the master waits a minute for a silent worker, which on a busy machine is not lost.

Locust itself waits for 3 s.
"""

from locust import runners

runners.HEARTBEAT_LIVENESS = 60
