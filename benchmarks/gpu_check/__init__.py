"""Everything that waits for a GPU, in one run of at most eight minutes: ``python -m benchmarks.gpu_check``.

Its parts are modules with ``NEEDS``, the packages without which the part is skipped, and ``work(options, notes)``,
which notes down each case as it goes. Each part runs in processes of its own (``worker``), so that a crash, a poisoned
device or a hang costs that part the rest of its time and no other part anything (``runner``). Nothing here imports vLLM
or Ray.
"""
