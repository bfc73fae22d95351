"""What master and workers say to each other during a run, beside Locust's own messages.

One kind of Locust message goes each way; `do` names what it is, `run` the run it belongs to (what comes late
from another run is ignored), the rest are its fields:

    worker -> master     what_time  asked_s                the moment on its own clock; see clock.RunClock
                         hello      name                   ready for orders
                         refused    problems               cannot take part, in sentences
                         leaving                           was told to end, and finishes what it has begun
                         ask        phase count            see plan.Dealer, generator.Leader
                         give_back  phase indices
                         ended      phase next_i
                         idle       phase
                         report     see `worker.WorkerLink.report`
    master -> worker     time       elapsed_s asked_s      how long ago the run began
                         begin      phase at_s part        see conductor.Ensemble
                         grant      phase indices last
                         amend      phase at_s part
                         end        phase
                         finish                            the load is over: finish what is in flight, report
                         cancel                            end what is in flight

All other times are seconds since the run began.
"""

TO_MASTER = "vllm_locust_to_master"
TO_WORKER = "vllm_locust_to_worker"
