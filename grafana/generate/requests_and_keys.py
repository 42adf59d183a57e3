"""Requests and keys: what is asked, by whom, and what comes of it."""

from overview import ASKED, MODEL, quantiles
from panels import board, heat, lines, variable

RATE = "[$__rate_interval]"


def build():
    asked = [
        lines("By route", "Requests a second.", {"{{route}}": f"sum by (route) (rate(vllama_requests_total{{{MODEL}}}{RATE}))"},
              "reqps", stacked=True),
        lines("By model", "Requests a second, without health checks.", {"{{model}}": f"sum by (model) (rate(vllama_requests_total{{{ASKED}}}{RATE}))"},
              "reqps", stacked=True),
        lines("Refused and failed", "Answers from 400 on, by status, without health checks.",
              {"{{status}} {{route}}": f'sum by (status, route) (rate(vllama_requests_total{{{ASKED},status=~"[45].."}}{RATE}))'},
              "reqps", stacked=True),
        lines("Connections", "Open now.", {"open": "sum by (instance) (vllama_connections)"}, "none"),
        lines("Connections refused", "For want of a place, a second.",
              {"refused": f"sum by (instance) (rate(vllama_connections_refused_total{RATE}))"}, "none"),
        lines("Replayed", "Requests that were asked again because their engine died.",
              {"{{model}}": f"sum by (model) (increase(vllama_requests_replayed_total{{{MODEL}}}{RATE}))"}, "none"),
    ]
    durations = [
        heat("Time to the first token", "From arrival; the darker, the more.", f"vllama_time_to_first_token_seconds{{{MODEL}}}", "s"),
        heat("Whole answers", "From arrival to the last byte.", f"vllama_request_duration_seconds{{{MODEL}}}", "s"),
        lines("Whole answers by route", "95 % within.",
              {"{{route}}": f"histogram_quantile(0.95, sum by (le, route) (rate(vllama_request_duration_seconds_bucket{{{MODEL}}}{RATE})))"},
              "s", logarithmic=True),
        lines("First token", "From arrival.", quantiles("vllama_time_to_first_token_seconds", 0.5, 0.95, 0.99), "s", logarithmic=True),
        lines("Between tokens", "Mean gap of each stream.", quantiles("vllama_inter_token_latency_seconds", 0.5, 0.95, 0.99), "s",
              logarithmic=True),
    ]
    tokens = [
        lines("Tokens read", "Of prompts, a second.",
              {"{{model}}": f"sum by (model) (rate(vllama_prompt_tokens_total{{{MODEL}}}{RATE}))"}, "none", 12, stacked=True),
        lines("Tokens written", "Of answers, a second.",
              {"{{model}}": f"sum by (model) (rate(vllama_generated_tokens_total{{{MODEL}}}{RATE}))"}, "none", 12, stacked=True),
    ]
    keys = [
        lines("Requests by key", "A second.", {"{{key}}": f"sum by (key) (rate(vllama_key_requests_total{RATE}))"}, "reqps",
              stacked=True),
        lines("Tokens by key", "Read and written, a second.",
              {"{{key}} {{direction}}": f"sum by (key, direction) (rate(vllama_key_tokens_total{RATE}))"}, "none", stacked=True),
        lines("Refused by key", "By the reason: a wrong scope, a limit.",
              {"{{key}} {{reason}}": f"sum by (key, reason) (rate(vllama_key_refusals_total{RATE}))"}, "reqps", stacked=True),
    ]
    sections = {"What is asked": asked, "How long it takes": durations, "Tokens": tokens, "Keys": keys}
    variables = [variable("model", "vllama_requests_total")]
    text = "What is asked, by whom, and what comes of it."
    return board("vllama-requests", "vllama: Requests and keys", text, variables, sections)
