"""Client and server side by side: the numbers, and when which sentence is said."""

import json
from dataclasses import replace

import pytest

from vllm_locust.core.reconciliation import is_partial, reconcile
from vllm_locust.core.server import HistogramState
from vllm_locust.core.server_window import ServerWindow


def histogram(mean_ms, count=200):
    """All of them in one bucket, up to twice the mean."""
    return HistogramState((mean_ms / 2000, mean_ms / 500), (0, count, 0), mean_ms / 1000 * count)


def server(*, ttft=169.0, itl=2.74, e2e=342.0, queue=1.0, count=200, finished=200, **more):
    means = {"ttft": ttft, "itl": itl, "e2e": e2e, "queue": queue}
    histograms = {name: histogram(mean, count) for name, mean in means.items() if mean is not None}
    counters = {"prompt_tokens": 25600.0, "generation_tokens": 12800.0}
    if finished is not None:
        counters["requests_finished"] = float(finished)
    values = {"samples": 20, "covered_s": 20.0, "restarts": 0, "engines": {}, "gauges": {}, "gpus": {}}
    return ServerWindow(**(values | {"counters": counters, "histograms": histograms} | more))


def client(**more):
    values = {
        "mean_ttft_ms": 170.0,
        "mean_itl_ms": 2.76,
        "mean_e2el_ms": 345.0,
        "mean_connect_ms": 0.3,
        "completed": 200,
        "failed": 0,
        "duration": 20.0,
        "request_throughput": 10.0,
        "total_input_tokens": 25600,
        "total_output_tokens": 12800,
    }
    values |= {"answers": {"of_several_tokens": 200, "itl_unknown": 0}} | more
    exact = {key: [values[key], values[key]] for key in values if key.startswith("mean_")}
    return values | {"error_bounds": exact | more.get("error_bounds", {})}


ALL = frozenset({"ttft", "tpot", "itl", "e2el"})


def sentences(server_side, client_side, valid=ALL):
    return reconcile(server_side, client_side, valid=valid)["sentences"]


def only(server_side, client_side, valid=ALL):
    (sentence,) = sentences(server_side, client_side, valid)
    return sentence


# -- numbers ----------------------------------------------------------------------------------------------


def test_the_numbers():
    ttft = HistogramState((0.1, 0.2, 0.5), (1, 150, 48, 1), 33.8)
    window = server(histograms={"ttft": ttft, "e2e": histogram(342.0)})
    result = reconcile(window, client(mean_ttft_ms=191.0), valid=ALL)
    assert json.loads(json.dumps(result)) == result
    assert result["ttft"] == {
        "client_mean_ms": 191.0,
        "server_mean_ms": pytest.approx(169.0),
        "gap_ms": pytest.approx(22.0),
        "client_count": 200,
        "server_count": 200,
        "server_p50_between_ms": [100, 200],
        "server_p99_between_ms": [200, 500],
    }
    assert result["itl"]["server_mean_ms"] is None
    assert result["itl"]["gap_ms"] is None
    assert result["itl"]["server_p99_between_ms"] is None
    assert result["e2el"]["gap_ms"] == pytest.approx(3.0)
    assert result["queue"] == {"server_mean_ms": None, "server_count": None, "server_p99_between_ms": None}
    assert result["tokens"] == {
        "prompt": {"client": 25600, "server": 25600},
        "generation": {"client": 12800, "server": 12800},
    }
    assert result["requests"] == {"client": 200, "server": 200}


def test_of_the_last_bucket_the_upper_border_is_not_known():
    window = server(histograms={"ttft": HistogramState((0.1,), (0, 9), 4.5)})
    assert reconcile(window, client(), valid=ALL)["ttft"]["server_p99_between_ms"] == [100, None]


def test_what_nobody_knows_is_null_and_no_sentence():
    window = server(counters={}, histograms={})
    result = reconcile(window, {"completed": 0, "mean_ttft_ms": None}, valid=ALL)
    assert result["sentences"] == []
    assert result["tokens"]["prompt"] == {"client": None, "server": None}


# -- nothing to say ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server_side", "client_side"),
    [
        (server(), client()),
        # 5 ms, and a tenth, are usual
        (server(ttft=28.8, e2e=150.7), client(mean_ttft_ms=33.0, mean_e2el_ms=154.7)),
        (server(ttft=1000.0, e2e=2000.0), client(mean_ttft_ms=1090.0, mean_e2el_ms=2090.0)),
        # few requests
        (server(count=4, finished=4), client(completed=4, mean_ttft_ms=900.0)),
        (server(count=4, finished=None), client(mean_ttft_ms=900.0)),
        # a queue, but a short one
        (server(ttft=5.0, queue=4.0), client(mean_ttft_ms=6.0)),
    ],
)
def test_nothing_is_said_where_nothing_is_worth_it(server_side, client_side):
    assert sentences(server_side, client_side) == []


# -- gaps -------------------------------------------------------------------------------------------------


def test_a_gap_of_ttft_is_told_once_and_not_again_for_e2el():
    sentence = only(server(), client(mean_ttft_ms=191.0, mean_e2el_ms=365.0))
    assert sentence == (
        "Mean TTFT is 22.0 ms (12 %) more than the server's own. The client vouches for its own figures: the "
        "time passes in the network, in a gateway in between, in vLLM's API server when it has more to do "
        "than its CPU can, or in its parser of tool calls, which sends nothing before a function's name is "
        "complete."
    )


def test_a_gap_that_comes_after_the_first_token_is_one_of_e2el():
    sentence = only(server(), client(mean_e2el_ms=500.0))
    assert sentence.startswith("Mean E2EL is 158.0 ms (32 %) more than the server's own.")


def test_a_client_that_could_not_measure_blames_itself():
    sentence = only(server(), client(mean_ttft_ms=300.0), valid=())
    assert "the gap may be its own" in sentence
    assert "network" not in sentence


def test_connecting_is_named_where_it_may_be_half_of_a_gap():
    """Among others: how many of the requests had to connect is not known here."""
    sentence = only(server(), client(mean_ttft_ms=230.0, mean_connect_ms=40.0))
    assert "in opening connections (40.0 ms for a request that needed one), in the network" in sentence
    assert "opening" not in only(server(), client(mean_ttft_ms=270.0, mean_connect_ms=40.0))
    assert "opening" not in only(server(), client(mean_ttft_ms=270.0, mean_connect_ms=None))


def test_a_client_below_the_server_means_others_histograms():
    sentence = only(server(), client(mean_ttft_ms=100.0, mean_e2el_ms=200.0))
    assert sentence.startswith("Mean TTFT and E2EL of the client are below the server's")
    assert "Mean TTFT of the client is" in only(server(), client(mean_ttft_ms=100.0))


def test_tokens_that_travel_together():
    sentence = only(server(itl=2.74), client(mean_itl_ms=22.0))
    assert sentence.startswith("Mean ITL is 22.00 ms here, 2.74 ms there though E2EL agrees")
    assert "--stream-interval" in sentence


def test_a_parser_and_an_api_server_out_of_breath_are_told_of_tokens_that_travel_together():
    sentence = only(server(itl=2.74), client(mean_itl_ms=22.0))
    assert "of a parser of tool calls" in sentence
    assert "of vLLM's API server, which merges what it has not sent yet when it lacks CPU time" in sentence


# The server's mean ITL is 10.41 ms: beyond 0.5 ms, a tenth of the client's and half as much again is 15.615.
@pytest.mark.parametrize(
    ("low_ms", "valid", "unknown", "said"),
    [
        (15.74, ALL, 0, True),
        (15.62, ALL, 0, True),
        (15.61, ALL, 0, False),
        (4.78, ALL, 0, False),
        (15.74, ALL - {"itl"}, 0, False),
        (15.74, {"itl"}, 0, True),
        (15.74, ALL, 10, True),  # a twentieth of 200
        (15.74, ALL, 11, False),
    ],
)
def test_a_gap_of_itl_is_told_where_it_is_sure_and_of_the_same_answers(low_ms, valid, unknown, said):
    ours = client(
        mean_itl_ms=15.74,
        error_bounds={"mean_itl_ms": [low_ms, 34.88]},
        answers={"of_several_tokens": 200, "itl_unknown": unknown},
    )
    assert bool(sentences(server(itl=10.41), ours, valid)) is said


def test_itl_is_not_held_against_an_e2el_that_does_not_agree():
    sentence = only(server(itl=2.74), client(mean_itl_ms=22.0, mean_e2el_ms=200.0))
    assert sentence.startswith("Mean E2EL of the client is below the server's")


# 19 ms more than 169 are over a tenth of 188, and so a gap; 18 ms are under a tenth of 187, and none.
@pytest.mark.parametrize(("low_ms", "vouched"), [(188.0, True), (187.0, False), (150.0, False)])
@pytest.mark.parametrize("family", ["ttft", "e2el"])
def test_a_gap_within_the_clients_error_bounds_may_be_its_own(family, low_ms, vouched):
    key = f"mean_{family}_ms"
    theirs = server(ttft=169.0, e2e=169.0)
    ours = {"mean_ttft_ms": 169.0, "mean_e2el_ms": 169.0, key: 191.0}
    if family == "ttft":
        ours["mean_e2el_ms"] = 191.0
    sentence = only(theirs, client(**ours, error_bounds={key: [low_ms, 191.0]}))
    assert sentence.startswith(f"Mean {family.upper()} is 22.0 ms (12 %) more")
    assert ("The client vouches" in sentence) is vouched
    assert ("the gap may be its own" in sentence) is not vouched


def test_a_client_whose_bounds_reach_the_server_is_not_below_it():
    ours = client(mean_ttft_ms=100.0, error_bounds={"mean_ttft_ms": [90.0, 160.0]})
    assert sentences(server(), ours) == []


def test_tokens_that_were_held_back():
    """As with an API server that gets no CPU time: whole answers come at once."""
    sentence = only(server(), client(mean_ttft_ms=330.0, mean_itl_ms=0.1, mean_e2el_ms=345.0))
    assert sentence.startswith("The first token came 161.0 ms late by the server's clock")
    assert "held back" in sentence


def test_tokens_are_not_held_back_that_the_client_may_have_stamped_so():
    bounds = {"mean_itl_ms": [0.0, 2.74]}
    ours = client(mean_ttft_ms=330.0, mean_itl_ms=0.1, mean_e2el_ms=345.0, error_bounds=bounds)
    assert only(server(), ours).startswith("Mean TTFT is 161.0 ms (49 %) more")


def test_a_client_that_read_late_does_not_blame_those_on_the_way():
    held_back = client(mean_ttft_ms=330.0, mean_itl_ms=0.1, mean_e2el_ms=345.0)
    sentence = only(server(), held_back, valid=())
    assert "held back" not in sentence
    assert "the gap may be its own" in sentence


def with_ttft_of(count, **means):
    """The server began more requests within the window than the client counts, or fewer."""
    window = server(**means)
    ttft = histogram(means.get("ttft", 169.0), count)
    return replace(window, histograms={**window.histograms, "ttft": ttft})


@pytest.mark.parametrize("count", [189, 211, 310])
@pytest.mark.parametrize("mean_ms", [100.0, 330.0])
def test_means_of_different_requests_have_no_causes(count, mean_ms):
    """As where steps overlap: 200 requests here, and more than a twentieth more or fewer there."""
    sentence = only(with_ttft_of(count), client(mean_ttft_ms=mean_ms, mean_itl_ms=0.1))
    assert sentence == (
        f"Mean TTFT is {mean_ms:.2f} ms here, 169.00 ms there, but of different requests: of 200 here, "
        f"of {count} there."
    )


@pytest.mark.parametrize("count", [190, 210])
def test_a_few_requests_at_the_borders_make_no_different_means(count):
    sentence = only(with_ttft_of(count), client(mean_ttft_ms=300.0))
    assert sentence.startswith("Mean TTFT is 131.0 ms (44 %) more")


def test_different_requests_whose_means_agree_are_nothing_to_tell():
    assert sentences(with_ttft_of(310), client()) == []


def test_e2el_of_other_requests_does_not_agree_with_the_clients():
    window = server()
    window = replace(window, histograms={**window.histograms, "e2e": histogram(342.0, 100)})
    assert sentences(window, client(mean_itl_ms=22.0)) == []


def test_the_queue_of_other_requests_is_no_part_of_ttft():
    assert sentences(with_ttft_of(100, ttft=170.0, queue=150.0), client()) == []


# -- the queue --------------------------------------------------------------------------------------------


def test_a_queue_in_the_server():
    sentence = only(
        server(ttft=812.4, queue=700.2, e2e=1000.0), client(mean_ttft_ms=815.0, mean_e2el_ms=1003)
    )
    assert sentence == (
        "Of 812 ms to the first token, by the server's own account, requests spent 700 ms waiting in its "
        "queue."
    )


# -- requests ---------------------------------------------------------------------------------------------


def test_others_use_the_server():
    sentence = only(server(finished=400), client())
    assert sentence == (
        "The server finished 400 requests, 50 % of them at least beyond this client's: somebody else's, "
        "asked for twice by a gateway, or choices of one request (n), each of which vLLM counts. Its means "
        "are of all of them."
    )


def test_one_server_may_have_been_named_twice():
    levels = {(source, "0", "m"): {} for source in ("localhost:8000", "127.0.0.1:8000")}
    sentence = only(server(finished=400, engines=levels), client())
    assert "each of which vLLM counts, or one server asked under two of the addresses given." in sentence


def test_the_means_of_a_server_that_works_for_others_are_not_held_against_the_client():
    sentence = only(server(finished=400), client(mean_ttft_ms=300.0))
    assert sentence.startswith("The server finished 400 requests")


def test_requests_outside_of_the_window_are_no_others():
    """Those that a warm-up or a cool-down leaves out, the server may count: 190 here."""
    outside = {"failed": 0, "outside_window": 190}
    assert sentences(server(finished=390), client(requests=outside)) == []
    assert len(sentences(server(finished=430), client(requests=outside))) == 1


def test_requests_that_failed_here_may_have_finished_there():
    assert sentences(server(finished=260), client(completed=200, failed=55)) == []


def half():
    """Of two servers that share the load one is asked for its metrics: it has half of the tokens as well."""
    counters = {"requests_finished": 100.0, "prompt_tokens": 12800.0, "generation_tokens": 6400.0}
    return server(counters=counters, count=100)


def test_of_a_server_that_had_a_part_of_the_load_nothing_is_shown():
    assert is_partial(half(), client())
    result = reconcile(half(), client(), valid=ALL)
    assert result["sentences"] == [
        "The server counted 100 finished requests where this client had 200, and fewer tokens, too: others "
        "answered them, servers behind the same address that are not asked for their metrics (name each with "
        "--server-metrics-url, which may be repeated), or a gateway from a cache of its own. So its numbers "
        "are of a part of the load, and are left out."
    ]
    assert result["tokens"]["generation"] == {"client": 12800, "server": None}
    assert result["requests"] == {"client": 200, "server": None}
    assert result["ttft"]["server_mean_ms"] is None
    window = half().of_a_part().to_dict()
    assert window["partial"]
    assert not window["several_servers"]
    assert (window["generation_tokens"], window["kv_cache_usage_peak"], window["engines"]) == (None, None, [])


@pytest.mark.parametrize(
    ("server_side", "client_side", "silent"),
    [
        (server(), client(), ()),
        (server(finished=100), client(), ()),  # aborted: the tokens are all there
        (half(), client(total_output_tokens=None), ()),
        (half(), client(), ("b:8000",)),  # another server, that could not be asked
        (replace(half(), restarts=1), client(), ()),
        (replace(half(), covered_s=9.0), client(), ()),
        # What ended within 10 s of a border may be on either side, or within 1 s of one of 10 phases.
        (replace(half(), samples=2), client(), ()),
        (half(), client(phases=[{}] * 10), ()),
    ],
)
def test_what_can_be_explained_otherwise_is_shown(server_side, client_side, silent):
    assert not is_partial(server_side, client_side, silent)


def test_a_source_that_gave_nothing_may_have_had_what_is_missing():
    result = reconcile(half(), client(), valid=ALL, silent=["b:8000"])
    assert result["sentences"] == [
        "The server counted 100 finished requests where this client had 200: b:8000 gave no metrics in the "
        "end, and may have had the others."
    ]
    assert result["tokens"]["generation"] == {"client": 12800, "server": 6400}


def test_after_an_abort_nothing_is_taken_for_a_part():
    """The one server made all the tokens, or a part of them and somebody else's: who can tell?"""
    sentence = only(server(finished=100), client())
    assert sentence.startswith(
        "The server counted 100 finished requests where this client had 200, and no fewer tokens: it ended "
        "some without counting them, as when they are aborted, or it works for somebody else, too, and "
        "others answered them, servers behind the same address"
    )
    assert not is_partial(server(finished=100), client())
    either = only(server(finished=100), client(total_output_tokens=None))
    assert "as when they are aborted, or others answered them" in either


def test_servers_that_take_turns_are_told_apart_from_one():
    window = server(ttft=1.0, finished=9000, restarts=5).of_several_servers()
    result = reconcile(window, client(), valid=ALL)
    assert result["sentences"] == [
        "Several servers take turns behind the address of the metrics, so that its numbers are nobody's and "
        "are left out: name each of them with --server-metrics-url, which may be repeated."
    ]
    assert result["tokens"]["generation"] == {"client": 12800, "server": None}
    assert result["ttft"]["server_mean_ms"] is None


def test_a_server_that_was_not_asked_all_the_time_is_not_blamed():
    sentence = only(server(finished=100, covered_s=9.0), client())
    assert sentence.endswith("its metrics are known for 9 s of 20 s only.")


@pytest.mark.parametrize("finished", [190, 210])
def test_what_ends_at_the_borders_of_the_window_is_no_difference(finished):
    """Ten requests a second, and a server that is asked once a second."""
    assert sentences(server(finished=finished), client()) == []


@pytest.mark.parametrize(("restarts", "word"), [(1, "once"), (7, "7 times")])
def test_counters_that_began_anew(restarts, word):
    sentence = only(server(restarts=restarts), client())
    assert sentence.startswith(f"The server's counters began anew {word}: it was restarted, or another one")


def test_counts_that_began_late_are_left_out_and_that_is_said():
    late = server(first_look_late_s=0.3, counters={}, histograms={})
    assert only(late, client()) == (
        "The server was first looked at 0.30 s after the load began: what it did before is not known, so "
        "that its counts and means are left out."
    )
