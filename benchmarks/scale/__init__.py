"""A cost model of training on many GPUs: pure functions, one file a subject. `python -m benchmarks.scale_model`."""
