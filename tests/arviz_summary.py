"""Print, as JSON, what ArviZ says of a saved run: `python arviz_summary.py inference_data.py run.nc`.

Runs on either generation of ArviZ. The library's file adapter is loaded by its path, because the environment of ArviZ 1
has no torch, which `import langevin.samplers` needs.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings

warnings.simplefilter("ignore", FutureWarning)  # ArviZ 0.23 announces ArviZ 1 whenever it is imported

import arviz  # noqa: E402
import numpy as np  # noqa: E402

STATISTICS = ["mean", "sd", "mcse_mean", "mcse_sd", "ess_bulk", "r_hat"]  # by the same definition in both generations


def load_adapter(path):
    spec = importlib.util.spec_from_file_location("inference_data", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def summary(data):
    """Unrounded statistics by parameter label; tail ESS at the 5 % and 95 % quantiles, which ArviZ 1 must be told."""
    table = arviz.summary(data, round_to="none")
    tail = arviz.ess(data, method="tail", prob=(0.05, 0.95))
    tail = tail["posterior"] if "posterior" in getattr(tail, "children", ()) else tail
    return {
        "statistics": {name: table.loc[name, STATISTICS].astype(float).to_dict() for name in table.index},
        "ess_tail": {str(name): np.asarray(tail[name]).ravel().tolist() for name in tail.data_vars},
    }


def main(adapter_path, run_path):
    adapter = load_adapter(adapter_path)
    built, opened = adapter.to_arviz(*adapter.read(run_path)), arviz.from_netcdf(run_path)
    print(
        json.dumps(
            {
                "version": arviz.__version__,
                "type": type(built).__name__,
                "torch": "torch" in sys.modules,
                "to_arviz": summary(built),
                "from_netcdf": summary(opened),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
