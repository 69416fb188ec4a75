"""What sampling and training at the same time gains, and what it costs: ``python -m benchmarks.overlap``."""
