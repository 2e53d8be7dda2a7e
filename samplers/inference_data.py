"""Chains as labelled arrays: the netCDF file and the ArviZ object.

This module needs numpy and xarray alone (and ArviZ for `to_arviz`), not torch, so a saved run can be opened and judged
on a machine without it. The file is plain netCDF4 with ArviZ's group names: `arviz.from_netcdf` reads it as it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

Groups = dict[str, xr.Dataset]
STATE = "sampler_state"
ATTRIBUTES = "langevin"
LEAD = ("chain", "draw")
SLASH = "\N{DIVISION SLASH}"  # stands for / in labels, where netCDF and xarray do not allow it


def draws_dataset(arrays: Mapping[str, np.ndarray], chain_ids: Sequence[int] | None = None) -> xr.Dataset:
    """Label `{name: [chain, draw, *shape]}`; chains are labelled by their numbers, 0, 1, … where none are given."""
    dataset = xr.Dataset({_label(name): (_dims(name, array.ndim - 2, *LEAD), array) for name, array in arrays.items()})
    coords = {dim: np.arange(size) for dim, size in dataset.sizes.items() if dim in LEAD}
    return dataset.assign_coords(coords if chain_ids is None else coords | {"chain": np.asarray(chain_ids)})


def plain_dataset(arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Label arrays that have neither chains nor draws: observed data, a sampler's state."""
    return xr.Dataset({_label(name): (_dims(name, array.ndim), array) for name, array in arrays.items()})


def _label(name: str) -> str:
    if name in LEAD:
        raise ValueError(f"{name!r} is the name of a dimension; rename this parameter in the draws before saving")
    return name.replace("/", SLASH)


def _dims(name: str, count: int, *lead: str) -> tuple[str, ...]:
    return lead + tuple(f"{_label(name)}_dim_{i}" for i in range(count))


def to_arrays(dataset: xr.Dataset) -> dict[str, np.ndarray]:
    """Take the labels off again."""
    return {str(name).replace(SLASH, "/"): variable.to_numpy() for name, variable in dataset.data_vars.items()}


def write(path: str | os.PathLike[str], groups: Groups, attrs: Mapping[str, Any]) -> None:
    """Write groups and attributes to one file, which appears whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        xr.Dataset(attrs={ATTRIBUTES: json.dumps(attrs)}).to_netcdf(partial, engine="h5netcdf")
        for name, dataset in groups.items():
            dataset.to_netcdf(partial, mode="a", group=name, engine="h5netcdf")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> tuple[Groups, dict[str, Any]]:
    """Read what `write` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file was not written by this library.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no saved chains at {path}")
    try:
        groups = xr.open_groups(path, engine="h5netcdf")
    except OSError as error:
        raise ValueError(f"{path} is not a netCDF file of chains: {error}") from error
    loaded = {}
    for name, dataset in groups.items():
        loaded[name.strip("/")] = dataset.load()
        dataset.close()
    root = loaded.pop("")
    if ATTRIBUTES not in root.attrs or "posterior" not in loaded:
        raise ValueError(f"{path} holds no chains of langevin: its groups are {sorted(loaded)}")
    return loaded, json.loads(root.attrs[ATTRIBUTES])


def to_arviz(groups: Groups, attrs: Mapping[str, Any]) -> Any:
    """Build ArviZ's own object: `InferenceData` on ArviZ 0.23, an xarray `DataTree` on ArviZ 1.x."""
    import arviz

    shown = {key: value if type(value) in (str, int, float) else json.dumps(value) for key, value in attrs.items()}
    labelled: dict[str, Any] = {name: dataset.assign_attrs(shown) for name, dataset in groups.items() if name != STATE}
    if int(arviz.__version__.split(".")[0]) >= 1:
        return xr.DataTree.from_dict({f"/{name}": dataset for name, dataset in labelled.items()})
    return arviz.InferenceData(**labelled)
