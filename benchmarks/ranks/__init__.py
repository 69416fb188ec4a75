"""A learner of many ranks against one process: parity, traffic, memory; ``python -m benchmarks.ranks``."""
