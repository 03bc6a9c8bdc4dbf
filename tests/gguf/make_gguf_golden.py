"""A small GGUF file with every type of value, and importance files, as the package `gguf` writes them.

usage: make_gguf_golden.py      (needs gguf 0.19 and numpy; writes golden/values.gguf and golden/imatrix.gguf)
"""
import pathlib

import gguf
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent / "golden"


def values():
    writer = gguf.GGUFWriter(HERE / "values.gguf", "test")
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -5)
    writer.add_uint16("a.u16", 60000)
    writer.add_int16("a.i16", -300)
    writer.add_uint32("a.u32", 4000000000)
    writer.add_int32("a.i32", -70000)
    writer.add_float32("a.f32", 1.5)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "gr\u00fc\u00df")
    writer.add_array("a.texts", ["one", "", "three"])
    writer.add_array("a.numbers", [1, 2, 3])
    writer.add_uint64("a.u64", 2**40)
    writer.add_int64("a.i64", -(2**40))
    writer.add_float64("a.f64", 0.1)
    writer.add_tensor("plain", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("half", np.arange(5, dtype=np.float16))
    blocks = np.arange(2 * 34, dtype=np.uint8).reshape(2, 34)
    writer.add_tensor("blocks.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def imatrix():
    writer = gguf.GGUFWriter(HERE / "imatrix.gguf", "")
    writer.kv_data[0].clear()
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["text"])
    writer.add_uint32("imatrix.chunk_count", 4)
    writer.add_uint32("imatrix.chunk_size", 512)
    writer.add_tensor("blk.0.attn_q.weight.in_sum2", np.array([[2, 4, 6, 8]], np.float32))
    writer.add_tensor("blk.0.attn_q.weight.counts", np.array([[2]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


values()
imatrix()
