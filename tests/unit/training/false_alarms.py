"""Count networks without errors that strict verification refuses; there must be none. Run by `nox -s false_alarms`.

python tests/unit/training/false_alarms.py                          seeds 0 to 999 of narrow networks
python tests/unit/training/false_alarms.py --first 123 --seeds 1    one seed
python tests/unit/training/false_alarms.py --thorough               every model, wide ones too, on MNIST
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[2]))

from support.trainings import Made, certificate_of, configured_trainings, narrow_training

from nl_training.verification.outcome import faults


def main() -> int:
    """Print the alarms and a summary; return the number of alarms and missing links."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--thorough", action="store_true")
    asked = parser.parse_args()
    seeds = range(asked.first, asked.first + asked.seeds)
    made: list[tuple[str, Callable[[], Made]]] = [(f"seed {n}", lambda n=n: narrow_training(n)) for n in seeds]
    return look(list(configured_trainings()) if asked.thorough else made)


def look(made: list[tuple[str, Callable[[], Made]]]) -> int:
    """Verify each network and print failures and a summary; return the number of failures."""
    began, alarms, missing, tensors, links, worst, share = perf_counter(), 0, 0, 0, 0, 0.0, 0.0
    for label, make in track(made, "looking for false alarms"):
        net, training = make()
        certificate = certificate_of(net, training)
        for fault in faults(certificate):
            alarms += 1
            print(f"ALARM {label}: {net!r}, {fault}", flush=True)
        for name in certificate.missing:
            missing += 1
            print(f"MISSING {label}: {net!r}, {name}", flush=True)
        tensors, links = tensors + len(certificate.tensors), links + len(certificate.links)
        worst = max(worst, certificate.worst)
        share = max(share, *(link.distance / link.limit for link in certificate.links if link.limit))
    print(
        f"{alarms} alarms and {missing} missing links in {len(made):,} networks: {tensors:,} tensors, worst residual "
        f"{worst:.1e}; {links:,} links, at most {share:.0%} of a limit; {perf_counter() - began:,.0f} s"
    )
    return alarms + missing


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
