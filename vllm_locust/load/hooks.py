"""The custom event of this suite, in Locust's own idiom.

    from locust import events
    import vllm_locust

    @events.stream_finished.add_listener
    def on_stream_finished(record, **kwargs):
        print(record.profile, record.outcome, record.ttft_s, record.tpot_s)

`stream_finished` fires once per finished request, whatever its outcome, with its `RequestRecord`. Everything
in this suite that counts, writes or shows requests listens here. Listeners run in the measuring process: keep
them short.
"""

from locust import events
from locust.event import EventHook

stream_finished = EventHook()
events.stream_finished = stream_finished  # type: ignore[attr-defined]
