"""One file an upstream trainer: it trains a :class:`benchmarks.cases.Case` as upstream's users do."""
