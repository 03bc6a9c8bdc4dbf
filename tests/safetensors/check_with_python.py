"""Compares our reader and writer with the Python package safetensors. Not part of the default tests.

    cmake --build build --target safetensors_probe
    python tests/safetensors/check_with_python.py build/tests/safetensors/safetensors_probe

Needs safetensors and numpy. Three comparisons: random files written by Python and read here; random files written here,
byte-equal to Python's and read by Python; damaged headers, which both must refuse for the same reason.
"""

import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

import numpy
import safetensors
from safetensors import numpy as st_numpy

DTYPES = {
    "F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1",
    "U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?",
}
ORDER = ["U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "I8", "U8", "BOOL"]
# Refused here and accepted by the package, on purpose: docs/safetensors.md.
STRICTER = {"DuplicateKey", "UnknownField", "InvalidName", "RankTooLarge"}


def probe(program, mode, path, text=None):
    result = subprocess.run([program, mode, str(path)], input=text, capture_output=True, text=True, check=True)
    return json.loads(result.stdout) if result.stdout else None


def fnv1a(data):
    value = 14695981039346656037
    for byte in data:
        value = ((value ^ byte) * 1099511628211) % 2**64
    return value


def random_tensors(rng):
    tensors = {}
    for _ in range(rng.randrange(9)):
        dtype = rng.choice(list(DTYPES))
        shape = [rng.randrange(5) for _ in range(rng.randrange(5))]
        count = int(numpy.prod(shape, dtype=int))
        width = numpy.dtype(DTYPES[dtype]).itemsize
        raw = bytes(rng.randrange(2 if dtype == "BOOL" else 256) for _ in range(count * width))
        array = numpy.frombuffer(raw, dtype=DTYPES[dtype]).reshape(shape)
        tensors[rng.choice(["a", "b.0", "é", 'q"\\', "😀"]) + str(rng.randrange(50))] = (dtype, array)
    return tensors


def check_reading(program, folder, rng):
    tensors = random_tensors(rng)
    path = folder / "python.safetensors"
    st_numpy.save_file({name: array for name, (_, array) in tensors.items()}, path, metadata={"k": "v\n"})
    ours = probe(program, "read", path)
    assert ours["metadata"] == {"k": "v\n"}, ours
    assert set(ours["tensors"]) == set(tensors), ours
    for name, (dtype, array) in tensors.items():
        got = ours["tensors"][name]
        assert (got["dtype"], got["shape"]) == (dtype, list(array.shape)), (name, got)
        assert got["hash"] == fnv1a(array.tobytes()), name


def check_writing(program, folder, rng):
    tensors = random_tensors(rng)
    names = sorted(tensors, key=lambda name: (ORDER.index(tensors[name][0]), name.encode()))
    listed = [
        {"name": n, "dtype": tensors[n][0], "shape": list(tensors[n][1].shape), "data": list(tensors[n][1].tobytes())}
        for n in names
    ]
    metadata = rng.choice([{}, {"format": "pt"}])
    ours, theirs = folder / "ours.safetensors", folder / "theirs.safetensors"
    assert probe(program, "write", ours, json.dumps({"tensors": listed, "metadata": metadata})) is None
    st_numpy.save_file({name: array for name, (_, array) in tensors.items()}, theirs, metadata=metadata or None)
    assert ours.read_bytes() == theirs.read_bytes(), (ours.read_bytes()[:400], theirs.read_bytes()[:400])
    read = st_numpy.load_file(ours)
    assert all(read[name].tobytes() == array.tobytes() for name, (_, array) in tensors.items())


def damaged(rng):
    entries = ['"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}', '"b":{"dtype":"I8","shape":[3],"data_offsets":[16,19]}']
    rng.shuffle(entries)
    text = bytearray(("{" + ",".join(entries) + "}").encode())
    for _ in range(rng.randrange(3)):
        at = rng.randrange(len(text))
        change = rng.randrange(3)
        if change == 0:
            text[at] = rng.choice(b'0123456789{}[]",:-.eFIU \\\xff\x00') if rng.random() < 0.9 else rng.randrange(256)
        elif change == 1:
            del text[at]
        else:
            text.insert(at, rng.choice(b'0123456789{}[]", '))
    length = len(text) + rng.choice([0] * 9 + [rng.randrange(-5, 200)])
    return struct.pack("<Q", max(0, length)) + bytes(text) + bytes(19 + rng.choice([0] * 9 + [-1, 1]))


def their_kind(path):
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            file.keys()
        return None
    except safetensors.SafetensorError as error:
        text = str(error).removeprefix("Error while deserializing header: ")
        return {"header too small": "HeaderTooSmall", "header too large": "HeaderTooLarge",
                "invalid header length": "InvalidHeaderLength", "invalid UTF-8 in header": "InvalidHeader",
                "invalid JSON in header": "InvalidHeaderDeserialization", "invalid offset for tensor": "InvalidOffset",
                "incomplete metadata, file not fully covered": "MetadataIncompleteBuffer",
                "invalid shape, data type, or offset for tensor": "TensorInvalidInfo"}.get(
                    text.split(":")[0].split(" `")[0].strip(), text)


def check_damage(program, folder, rng):
    path = folder / "damaged.safetensors"
    path.write_bytes(damaged(rng))
    ours, theirs = probe(program, "read", path).get("kind"), their_kind(path)
    if ours in STRICTER:
        return
    assert ours == theirs, (ours, theirs, path.read_bytes())


def main():
    program = str(pathlib.Path(sys.argv[1]).resolve())
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for check, rounds in ((check_reading, 100), (check_writing, 100), (check_damage, 1500)):
            for _ in range(rounds):
                check(program, folder, rng)
            print(f"{check.__name__}: {rounds} files agree (safetensors {safetensors.__version__})")


if __name__ == "__main__":
    main()
