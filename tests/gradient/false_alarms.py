"""Right gradients that the check rejects: over many seeds there must be none. Run it by `nox -s false_alarms`."""

import argparse
import sys
from itertools import cycle, islice, product
from pathlib import Path
from time import perf_counter

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.narrow import FORMS, WIDTHS, narrow, to_train

from nl_nodes.verify import Residual, sample_check

LIMIT = 1e-10


def residuals_of(name: str, form: str, seed: int) -> list[Residual]:
    """A model's residuals with weights, images, labels and directions of a seed."""
    net, rng = narrow(name, seed, **FORMS[form]), np.random.default_rng(seed)
    return sample_check(*to_train(net, 4, rng), np.float64(rng.uniform(0.5, 2)), rng)


def main() -> int:
    """Print the alarms and the worst residual; return how many alarms there were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    seeds = parser.parse_args().seeds
    start, tensors, alarms, worst = perf_counter(), 0, 0, 0.0
    for seed, (name, form) in enumerate(islice(cycle(product(WIDTHS, FORMS)), seeds)):
        for residual in residuals_of(name, form, seed):
            tensors += 1
            worst = max(worst, residual.value)
            if not residual.value <= LIMIT:
                alarms += 1
                print(f"ALARM {name}, {form}, seed {seed}: {residual}", flush=True)
    seconds = perf_counter() - start
    print(f"{alarms} alarms in {seeds} seeds ({tensors:,} tensors), worst residual {worst:.1e}, {seconds:.0f} s")
    return alarms


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
