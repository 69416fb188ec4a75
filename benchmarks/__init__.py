"""Measurements of k15, one command each: ``python -m benchmarks.NAME --help`` teaches what each compares.

Progress goes to standard error; standard output carries JSON lines, one per measurement and a summary at the end.
"""

from rollout.spinning import wait_briefly

wait_briefly()  # as the command line does: what is measured is what a user gets
