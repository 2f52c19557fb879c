"""First look at a GPU: fifteen checks of what can differ from a CPU, each by itself.

    python benchmarks/gpu.py --config-dir DIR --out FOLDER                  # DIR: SD 1.5's configs and tokenizer
    python benchmarks/gpu.py --config-dir DIR --out FOLDER --device cpu     # a dry run; CUDA-only checks are skipped
    python benchmarks/gpu.py --dump-parses FILE                             # for a machine without spaCy, then there:
    python benchmarks/gpu.py --config-dir DIR --out FOLDER --parses FILE

One line a check: PASS, FAIL or skip, what is expected, and what was seen. A check that breaks is a FAIL, and the next
one runs. FOLDER/gpu.json has all lines, FOLDER/sdpa.txt every attention call. Exit code 1: a check failed.
"""

import argparse
import json
import os
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks.parses import dump_parses, use_parses


def parse_arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--config-dir", type=Path, help="a folder with SD 1.5's configs and tokenizer")
    parser.add_argument("--out", type=Path, help="a folder for what is found")
    parser.add_argument("--parses", type=Path, metavar="FILE", help="parses to use in the place of spaCy")
    parser.add_argument("--dump-parses", type=Path, metavar="FILE", help="only write that file")
    args = parser.parse_args()
    if not args.dump_parses and not (args.config_dir and args.out):
        parser.error("--config-dir and --out are needed")
    return args


def main() -> None:
    args = parse_arguments()
    if args.dump_parses:
        print(f"{dump_parses(args.dump_parses)} parses in {args.dump_parses}")
        return
    use_parses(args.parses)
    from benchmarks import gpu_checks, gpu_machine  # after use_parses: they import the parser

    args.out.mkdir(parents=True, exist_ok=True)
    machine = gpu_machine.Machine(args.device, args.config_dir, args.out)
    started, lines = time.perf_counter(), []
    for number, check in enumerate(gpu_checks.CHECKS, 1):
        name = f"{number} {' '.join((check.__doc__ or '').split()).rstrip('.')}"
        if check in gpu_checks.CUDA_ONLY and args.device != "cuda":
            status, text = "skip", "CUDA only"
        else:
            try:
                passed, text = check(machine)
                status = "skip" if passed is None else "PASS" if passed else "FAIL"
            except Exception as error:  # whatever breaks is a finding, and the other checks still count
                traceback.print_exc()
                status, text = "FAIL", f"{type(error).__name__}: {str(error)[:300]}"
        lines.append({"status": status, "check": name, "seen": text})
        print(f"{time.perf_counter() - started:6.1f} s  {status:5} {name}: {text}", flush=True)
    (args.out / "gpu.json").write_text(json.dumps(lines, indent=1) + "\n")
    failed = sum(line["status"] == "FAIL" for line in lines)
    print(f"{failed} failed of {len(lines)} in {time.perf_counter() - started:.0f} s")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
