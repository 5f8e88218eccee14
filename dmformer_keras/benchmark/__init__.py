"""Throughput, latency and memory of DMFormer beside its peers, measured in turns.

Every contestant (a model in a form, on a runtime) lives in a process of its own, and the
processes take turns: what else the machine does meets all of them alike, and ratios are of
neighbors in time. `dmformer benchmark` is the command of it, `benchmarks/` what this
project measures with it.
"""

from dmformer_keras.benchmark.contestants import Contestant, contestants_of, parse_name
from dmformer_keras.benchmark.measurement import Settings, measure
from dmformer_keras.benchmark.results import ratios, summarize, write_results

__all__ = [
    "Contestant",
    "Settings",
    "contestants_of",
    "measure",
    "parse_name",
    "ratios",
    "summarize",
    "write_results",
]


def __dir__():
    return __all__
