"""Engines and GPUs: what each engine does, and what the machine has left."""

from panels import BAD, FAIR, GOOD, bars, board, lines, rows, states, variable

ENGINE = 'engine=~"$engine"'
RATE = "[$__rate_interval]"


def build():
    def each(expression, legend="{{engine}}"):
        return {legend: expression}

    life = [
        states("Engines", "What each engine was."),
        lines("Restarts", "Of engines that died, by the failure that was found.",
              {"{{engine}} {{failure}}": f"sum by (engine, failure) (increase(vllama_engine_restarts_total{{{ENGINE}}}{RATE}))"},
              "none"),
        lines("Starts and hangs", "Starts for whatever reason; hangs were found by the heartbeat.",
              {"starts {{engine}}": f"sum by (engine) (increase(vllama_engine_starts_total{{{ENGINE}}}{RATE}))",
               "hangs {{engine}}": f"sum by (engine) (increase(vllama_engine_wedges_total{{{ENGINE}}}{RATE}))"}, "none"),
        bars("Last start", "What the last start spent its time with.",
             {"{{engine}} {{phase}}": f"vllama_engine_start_phase_seconds{{{ENGINE}}}"}, "s"),
        lines("Last start in all", "From the program's start to its first answer.", each(f"vllama_engine_start_seconds{{{ENGINE}}}"), "s"),
        lines("Swaps and drains", "Models that made room for others, and models in use that took no new requests to do so.",
              {"swaps": f"sum(increase(vllama_swaps_total{RATE}))", "drains": f"sum(increase(vllama_drains_total{RATE}))"}, "none"),
        lines("Figures of the engine", "1: the engine answered /metrics within a second. Else its panels below have gaps.",
              each(f"vllama_engine_scrape_ok{{{ENGINE}}}"), "none", top=1),
    ]
    work = [
        lines("Running and waiting in the engine", "Requests in the batch, and those that the engine keeps back.",
              {"running {{engine}}": f"sum by (engine) (vllm:num_requests_running{{{ENGINE}}})",
               "waiting {{engine}}": f"sum by (engine) (vllm:num_requests_waiting{{{ENGINE}}})"}, "none"),
        lines("Key/value cache", "Above 95 % requests wait or are preempted.",
              each(f"max by (engine) (vllm:kv_cache_usage_perc{{{ENGINE}}})"), "percentunit", top=1,
              steps=[(None, "transparent"), (0.95, BAD)]),
        lines("Preemptions", "Requests whose work was thrown away to make room, a second.",
              each(f"sum by (engine) (rate(vllm:num_preemptions_total{{{ENGINE}}}{RATE}))"), "none"),
        lines("Tokens", "Read and written by the engine, a second.",
              {"read {{engine}}": f"sum by (engine) (rate(vllm:prompt_tokens_total{{{ENGINE}}}{RATE}))",
               "written {{engine}}": f"sum by (engine) (rate(vllm:generation_tokens_total{{{ENGINE}}}{RATE}))"}, "none"),
        lines("Prompts found in the cache", "Share of prompt tokens that the engine had computed before.",
              each(f"sum by (engine) (rate(vllm:prefix_cache_hits_total{{{ENGINE}}}{RATE}))"
                   f" / sum by (engine) (rate(vllm:prefix_cache_queries_total{{{ENGINE}}}{RATE}))"), "percentunit", top=1),
        lines("How answers end", "By the engine's reason.",
              {"{{finished_reason}}": f"sum by (finished_reason) (rate(vllm:request_success_total{{{ENGINE}}}{RATE}))"}, "reqps",
              stacked=True),
    ]
    memory = [
        lines("Memory of engines", "Main memory that the engine's processes hold.", each(f"vllama_engine_memory_bytes{{{ENGINE}}}"),
              "bytes", stacked=True),
        lines("Memory for engines", "What they may have in all, and what is given out.",
              {"budget {{device}}": "vllama_memory_budget_bytes", "given {{device}}": "vllama_memory_used_bytes"}, "bytes"),
        bars("Disks", "Share in use.",
             {"{{volume}}": "1 - vllama_disk_free_bytes / vllama_disk_size_bytes"}, "percentunit",
             [(None, GOOD), (0.9, FAIR), (0.98, BAD)], top=1),
        lines("Installed models", "Bytes in the store.", {"store": "sum by (instance) (vllama_store_bytes)"}, "bytes"),
        lines("vllama itself", "Its own memory; engines are not in it.", {"resident": 'process_resident_memory_bytes{job="vllama"}'},
              "bytes"),
        lines("Descriptors", "Open, and how many may be.",
              {"open": 'process_open_fds{job="vllama"}', "limit": 'process_max_fds{job="vllama"}'}, "none", logarithmic=True),
    ]
    gpus = [
        lines("GPU memory", "Share in use, by anybody.", {"GPU {{gpu}}": "vllama_gpu_memory_used_bytes / vllama_gpu_memory_total_bytes"},
              "percentunit", top=1, steps=[(None, "transparent"), (0.98, BAD)]),
        lines("GPU at work", "Share of the time in which it computed.", {"GPU {{gpu}}": "vllama_gpu_utilization_ratio"}, "percentunit",
              top=1),
        lines("GPU temperature", "Above 87 °C somebody is called.", {"GPU {{gpu}}": "vllama_gpu_temperature_celsius"}, "celsius",
              steps=[(None, "transparent"), (87, BAD)]),
        lines("GPU power", "Drawn by each card.", {"GPU {{gpu}}": "vllama_gpu_power_watts"}, "watt", stacked=True),
        lines("GPU memory errors", "That could not be corrected, since the driver was loaded.", {"GPU {{gpu}}": "vllama_gpu_ecc_errors_total"}, "none"),
        rows("Versions", "Of vllama and of the engine.", "vllama_build_info", ["Value", "__name__", "job"], width=8),
    ]
    sections = {"Life": life, "Work": work, "Memory and disks": memory, "GPUs": gpus}
    variables = [variable("engine", "vllama_engine_state")]
    text = "What each engine does, and what the machine has left."
    return board("vllama-engines", "vllama: Engines and GPUs", text, variables, sections)
