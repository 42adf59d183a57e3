"""Overview: is it well? Who waits? How fast is it?"""

from panels import BAD, FAIR, GOOD, board, figure, lines, rows, variable

MODEL = 'model=~"$model"'
# Without those who only look whether it is well.
ASKED = MODEL + ',route!~"/health.*|/metrics"'


def quantiles(metric, *shares, by="model"):
    """Lines for shares of a histogram's observations."""
    return {
        f"{{{{{by}}}}} p{share * 100:g}": f"histogram_quantile({share}, sum by (le, {by}) (rate({metric}_bucket{{{MODEL}}}[$__rate_interval])))"
        for share in shares
    }


def build():
    requests = f"sum(rate(vllama_requests_total{{{ASKED}}}[$__rate_interval]))"
    first_token = f"sum by (le) (rate(vllama_time_to_first_token_seconds_bucket{{{MODEL}}}[$__rate_interval]))"
    well = [
        figure("Ready", "Whether the default model can answer, on every vllama.", "min(vllama_ready)", "none",
               words={0: ("no", BAD), 1: ("yes", GOOD)}),
        figure("Alerts", "Alerts that fire now.", 'count(ALERTS{alertstate="firing"}) or vector(0)', "none",
               [(None, GOOD), (1, BAD)], decimals=0),
        figure("Failed engines", "Engines that cannot start.", 'sum(vllama_engine_state{engine=~"$engine",state="failed"})',
               "none", [(None, GOOD), (1, BAD)], decimals=0),
        figure("Requests that fail", "Share of the last hour's inference requests with a 5xx; 0.5 % are allowed.",
               "max(instance:vllama_errors:ratio_rate1h)", "percentunit", [(None, GOOD), (0.005, FAIR), (0.03, BAD)]),
        figure("Late first tokens", "Share of the last hour's first tokens that took more than 5 s; 5 % are allowed.",
               "max(instance:vllama_late_first_tokens:ratio_rate1h)", "percentunit", [(None, GOOD), (0.05, FAIR), (0.3, BAD)]),
        figure("Certificate", "Time until the first certificate ends. Caddy renews at a third of its lifetime.",
               "min(instance:certificate:remaining_seconds)", "s", [(None, BAD), (3600, FAIR), (7200, GOOD)]),
        rows("Alerts that fire", "Each has a page in docs/runbooks/ of its name.", 'ALERTS{alertstate="firing"}',
             ["Value", "__name__", "alertstate", "job"]),
        lines("Requests by status", "Without health checks. 499: the client left. 503: no room, or the engine is not there.",
              {"{{status}}": f"sum by (status) (rate(vllama_requests_total{{{ASKED}}}[$__rate_interval]))"}, "reqps", 12,
              stacked=True),
    ]
    waits = [
        figure("Waiting now", "Requests in the queue, for all chosen models.", f"sum(vllama_queue_length{{{MODEL}}})", "none",
               [(None, GOOD), (1, FAIR), (100, BAD)], decimals=0),
        figure("Longest wait now", "How long the oldest request in the queue has been there.",
               f"max(vllama_queue_oldest_seconds{{{MODEL}}})", "s", [(None, GOOD), (10, FAIR), (60, BAD)]),
        figure("Running now", "Requests that have their place in an engine.", f"sum(vllama_leases{{{MODEL}}})", "none", decimals=0),
        figure("Requests", "A second, without health checks.", requests, "reqps"),
        figure("Swaps", "How often a model made room for another, in the time shown.", "sum(increase(vllama_swaps_total[$__range]))",
               "none", decimals=0),
        figure("Replayed", "Requests that were asked again because their engine died, in the time shown.",
               f"sum(increase(vllama_requests_replayed_total{{{MODEL}}}[$__range]))", "none", [(None, GOOD), (1, FAIR)], decimals=0),
        lines("Queue", "Requests that wait, by model.", {"{{model}}": f"sum by (model) (vllama_queue_length{{{MODEL}}})"}, "none",
              stacked=True),
        lines("Oldest in the queue", "Above a minute for 5 minutes somebody is called.",
              {"{{model}}": f"max by (model) (vllama_queue_oldest_seconds{{{MODEL}}})"}, "s",
              steps=[(None, "transparent"), (60, BAD)]),
        lines("Time in the queue", "From arrival to a place in an engine, of the requests that got one.",
              quantiles("vllama_queue_wait_seconds", 0.5, 0.95), "s"),
    ]
    fast = [
        figure("First token, half within", "From arrival, over all chosen models.", f"histogram_quantile(0.5, {first_token})", "s"),
        figure("First token, 95 % within", "From arrival, over all chosen models.", f"histogram_quantile(0.95, {first_token})", "s",
               [(None, GOOD), (5, BAD)]),
        figure("Between tokens", "Mean gap in a stream, half of the streams within.",
               f"histogram_quantile(0.5, sum by (le) (rate(vllama_inter_token_latency_seconds_bucket{{{MODEL}}}[$__rate_interval])))", "s"),
        figure("Tokens read", "Tokens of prompts, a second.", f"sum(rate(vllama_prompt_tokens_total{{{MODEL}}}[$__rate_interval]))",
               "none", decimals=0),
        figure("Tokens written", "Tokens of answers, a second.",
               f"sum(rate(vllama_generated_tokens_total{{{MODEL}}}[$__rate_interval]))", "none", decimals=0),
        figure("Engines ready", "Engines that answer now.", 'sum(vllama_engine_state{engine=~"$engine",state="ready"})', "none",
               decimals=0),
        lines("First token", "From arrival, queue included. 95 % should come within 5 s.",
              quantiles("vllama_time_to_first_token_seconds", 0.5, 0.95), "s", steps=[(None, "transparent"), (5, BAD)]),
        lines("Between tokens", "Mean gap of each stream.", quantiles("vllama_inter_token_latency_seconds", 0.5, 0.95), "s"),
        lines("Tokens written", "A second, by model.",
              {"{{model}}": f"sum by (model) (rate(vllama_generated_tokens_total{{{MODEL}}}[$__rate_interval]))"}, "none",
              stacked=True),
    ]
    variables = [variable("model", "vllama_requests_total"), variable("engine", "vllama_engine_state")]
    sections = {"Is it well?": well, "Who waits?": waits, "How fast is it?": fast}
    return board("vllama-overview", "vllama: Overview", "Is it well? Who waits? How fast is it?", variables, sections)
