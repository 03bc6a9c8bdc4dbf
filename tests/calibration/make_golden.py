"""Writes the files in golden/ with NumPy and h5py: token ids (i * 7919 % 50000) and statistics of a small X.

    python tests/calibration/make_golden.py
"""

import pathlib

import h5py
import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "golden"


def ids(*shape):
    count = int(np.prod(shape))
    return (np.arange(count, dtype=np.int64) * 7919 % 50000).reshape(shape)


def npy(name, array, version):
    with open(GOLDEN / name, "wb") as file:
        np.lib.format.write_array(file, array, version=version)


def statistics():
    x = np.sin(np.arange(1, 6 * 4 + 1, dtype=np.float64)).reshape(6, 4)
    with h5py.File(GOLDEN / "statistics.h5", "w") as file:
        file.attrs["schema_version"] = 1
        file.attrs["model"] = "elsewhere"
        group = file.create_group("inputs/model.layers.0.self_attn.q_proj")
        group.attrs["tokens"] = 6
        group.attrs["cols"] = 4
        group["absmax"] = np.abs(x).max(0).astype("f4")
        group["mean_abs"] = np.abs(x).mean(0)  # float64: converted on reading
        group.create_dataset("gram", data=(x.T @ x / 6).astype("f4"), chunks=(2, 4), compression="gzip")
        group["rows"] = x.astype("f4")
        file["inputs/model.layers.0.self_attn.k_proj"] = group


def main():
    GOLDEN.mkdir(exist_ok=True)
    npy("line_i8_v1.npy", ids(30), (1, 0))
    npy("table_i4_v2.npy", ids(4, 6).astype("<i4"), (2, 0))
    npy("table_u2_v3.npy", ids(4, 6).astype("<u2"), (3, 0))
    npy("table_u8_v1.npy", ids(4, 6).astype("<u8"), (1, 0))
    with h5py.File(GOLDEN / "table.h5", "w") as file:
        file.create_dataset("input_ids", data=ids(40, 6).astype("i4"), chunks=(16, 6), compression="gzip", shuffle=True)
    with h5py.File(GOLDEN / "line.h5", "w") as file:
        file.create_dataset("input_ids", data=ids(30).astype("u2"))
    statistics()


if __name__ == "__main__":
    main()
