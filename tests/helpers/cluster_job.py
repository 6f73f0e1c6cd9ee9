"""A command that trains a small study, for tests that kill it: CORPUS_PICKLE RESULTS CLUSTER WORKERS.

``SLOWLY`` in the environment adds seconds to each epoch; ``TRAINED`` names a file that gets a line for each training:
its name, and the first epoch that was trained in that process. ``FAILS`` is part of the name of a run that fails.
"""

import contextlib
import os
import pickle
import sys
import time
from pathlib import Path

from mgcl_core import trainer
from mgcl_core.experiments import study as studies
from mgcl_core.experiments.clusters import connect, started
from mgcl_core.experiments.study import Study
from mgcl_core.support.errors import RunError

trainer.SECONDS_BETWEEN_CHECKPOINTS = 0.0  # of every worker too, which imports this file
fit = trainer.fit


def slow_fit(*arguments, label, after_epoch=None, **settings):
    if os.environ.get("FAILS", "no run") in label:
        raise RunError("no luck with this one")
    epochs = []

    def one_more(epoch, system):
        epochs.append(epoch)
        time.sleep(float(os.environ["SLOWLY"]))

    result = fit(*arguments, label=label, after_epoch=one_more, **settings)
    with open(os.environ["TRAINED"], "a") as file:
        file.write(f"{label} from {epochs[:1]}\n")
    return result


studies.fit = slow_fit


def main() -> None:
    corpus, overrides = pickle.loads(Path(sys.argv[1]).read_bytes())
    results, cluster, workers = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    with contextlib.ExitStack() as stack:
        executor = None
        if cluster != "none":
            address = stack.enter_context(started(cluster, workers, results / "cluster"))
            executor, _ = connect(address, workers, results / "cluster")
        study = Study(corpus, "demo", seeds=[7], overrides=overrides, results=results, device="cpu", workers=workers,
                      executor=executor)  # fmt: skip
        print("ready", flush=True)
        study.train(["MGCL", "w/o fusion"])
        print("finished", flush=True)


if __name__ == "__main__":
    main()
