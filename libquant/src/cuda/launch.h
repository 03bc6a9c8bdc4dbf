// Kernel launches: what the CUDA sources define and the C++ sources call. They return the runtime's error code.
#pragma once

#include "cuda/dense.h"
#include "cuda/finish.h"
#include "cuda/inputs.h"
#include "cuda/tile_product.h"

namespace quant::cuda {

int launch(const PlainProduct& product, void* stream);
int launch(const Finish& finish, void* stream);
int launch(const Bf16Inputs& inputs, void* stream);
int launch(const FloatInputs& inputs, void* stream);
int launch(const CodedInputs& inputs, void* stream);
int launch(const DenseFill& fill, void* stream);
int launch_integer_tiles(const TileProduct& product, void* stream);
int launch_float_tiles(const TileProduct& product, void* stream);  // tables and FP8
int launch_byte_tiles(const TileProduct& product, void* stream);

}  // namespace quant::cuda
