"""Compile Triton kernels ahead of time: `python scripts/compile_kernels.py op=read_and_write target=sm_90 sizes=paper`.

Keys: `op`, `target`, `sizes` (lists; all by default). Prints registers, spills and shared memory of every kernel; ends
with 1 if a kernel spills.
"""

import sys

from memnets.kernel_report import SIZES, TARGETS, compiled_names, report


def main(arguments: list[str]) -> int:
    valid = {"op": compiled_names(), "target": list(TARGETS), "sizes": list(SIZES)}
    chosen = dict(valid)
    for word in arguments:
        key, _, values = word.partition("=")
        if unknown := [key] if key not in valid else [name for name in values.split(",") if name not in valid[key]]:
            print(f"error: {word}: no {unknown[0]!r} among {', '.join(valid.get(key, valid))}", file=sys.stderr)
            return 2
        chosen[key] = values.split(",")
    spilled = False
    print(f"{'case':44} {'kernel':28} {'target':7} registers  spills  shared")
    for case, kernel, target, usage in report(chosen["op"], chosen["target"], chosen["sizes"]):
        print(f"{case:44} {kernel:28} {target:7} {usage.registers:9} {usage.spills:7} {usage.shared:7}", flush=True)
        spilled = spilled or usage.spills > 0
    return int(spilled)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
