"""Times kernels against their references, and counts what each moves: cases, timing, counting, one row of results."""
