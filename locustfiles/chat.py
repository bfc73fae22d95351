"""The main job: users who ask one question of the chosen scenario after the other.

Run it like this:

    locust -f locustfiles/chat.py --headless -u 8 -r 8 -t 30s --scenario ss --host http://localhost:8000
"""

from locust import task

from vllm_locust import VllmUser


class ChatUser(VllmUser):
    @task
    def chat(self) -> None:
        self.ask_next()
