"""The candidates of ``benchmarks.recommenders``, each a process that is given a job as JSON.

It prints the seconds of the first epoch and of another, and those of the recommendations, and the
peak memory of its process in KiB.
"""
