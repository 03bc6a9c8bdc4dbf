#!/usr/bin/env python3
"""Makes the three kinds of HDF5 files with the program, runs what docs/hdf5.md says to read them with h5py, and compares
their values with the files that they were made from. Needs h5py and numpy; not part of the test suite.

    read_with_h5py.py build/release/bin/quant
"""
import contextlib, io, json, os, re, subprocess, sys, tempfile
from pathlib import Path

import h5py
import numpy as np

SOURCE = Path(__file__).resolve().parents[2]
NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "U8": "u1", "I32": "<i4", "U32": "<u4", "U16": "<u2", "I64": "<i8"}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.M | re.S)


def safetensors(file):
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        yield name, entry["dtype"], np.frombuffer(data[8 + length + begin : 8 + length + end], NUMPY[entry["dtype"]]).reshape(entry["shape"])


def check_model(folder, h5):
    model, count = h5py.File(h5), 0
    for name, dtype, values in safetensors(folder / "model.safetensors"):
        stored = model[name.replace(".", "/")]
        assert stored.attrs["dtype"].decode() == dtype and stored.shape == values.shape, name
        assert np.array_equal(stored[()], values), name
        count += 1
    chunked = [d for d in (model[n.replace(".", "/")] for n, _, _ in safetensors(folder / "model.safetensors")) if d.chunks]
    assert chunked and all(d.shuffle and d.compression == "gzip" and np.prod(d.chunks) * d.dtype.itemsize <= 1 << 22 for d in chunked)
    return f"{count} tensors equal"


def check_report(folder):
    report, h5 = json.loads((folder / "report.json").read_text()), h5py.File(folder / "report.h5")
    assert h5.attrs["schema_version"] == report["schema_version"] and h5.attrs["recipe_text"] == report["recipe"]["text"]
    for i, layer in enumerate(report["layers"]):
        assert h5["summary/module"].asstr()[i] == layer["module"]
        assert h5["summary/nmse"][i] == layer["metrics"]["nmse"]
        group = h5["layers"][layer["module"]]
        assert group["row_nmse"].shape == (layer["shape"][0],) and group.attrs["sqnr_db"] == layer["metrics"]["sqnr_db"]
    return f"{len(report['layers'])} layers equal"


def check_statistics(file, folder):
    h5, report = h5py.File(file), json.loads((folder / "report.json").read_text())
    tokens = {layer["module"]: layer["calibration"]["tokens"] for layer in report["layers"]}
    assert set(h5["inputs"]) == set(tokens)
    for module, x in h5["inputs"].items():
        n = int(x.attrs["cols"])
        assert x.attrs["tokens"] == tokens[module] and x["gram_upper"].shape == (n * (n + 1) // 2,), module
        diagonal = x["gram_upper"][()][np.cumsum(np.r_[0, np.arange(n, 1, -1)])]
        # Mean of squares lies between the square of the mean magnitude and that of the largest.
        assert np.all(diagonal >= x["mean_abs"][()] ** 2 * 0.999) and np.all(diagonal <= x["absmax"][()] ** 2 * 1.001), module
        assert np.array_equal(x["absmax"][()], np.maximum(np.abs(x["minimum"][()]), np.abs(x["maximum"][()]))), module
    q, k = (h5["inputs"][f"model.layers.0.self_attn.{p}_proj"] for p in "qk")
    assert q == k and q.id.__hash__() == k.id.__hash__(), "q_proj and k_proj read one input: one group"
    return f"{len(tokens)} inputs consistent"


def main():
    quant = Path(sys.argv[1]).resolve()
    page = (SOURCE / "docs/hdf5.md").read_text()
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        os.symlink(SOURCE / "examples", "examples")
        environment = {**os.environ, "PATH": f"{quant.parent}:{os.environ['PATH']}", "OMP_WAIT_POLICY": "passive"}
        for block in blocks(page, "bash"):
            subprocess.run(["bash", "-euo", "pipefail", "-c", block], check=True, env=environment, stdout=subprocess.DEVNULL)
        names = {}
        for block in blocks(page, "python"):
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(block, names)
            assert out.getvalue().strip(), block
            print(block + "->\n" + out.getvalue())
        print(check_statistics(Path("out/statistics.h5"), Path("out/w8")))
        print(check_model(Path("out/w8"), Path("out/w8-h5/model.h5")))
        print(check_report(Path("out/w8")))
        subprocess.run([quant, "convert", "out/w8-h5", "out/back", "--to", "safetensors"], check=True, stdout=subprocess.DEVNULL)
        assert Path("out/back/model.safetensors").read_bytes() == Path("out/w8/model.safetensors").read_bytes()
        print("and back to the same bytes")


if __name__ == "__main__":
    main()
