// Where every output tensor goes: files, order within a file, index.
#pragma once

#include "quant/plan.h"

namespace quant::plan_detail {

/// Fills Plan::shards, metadata, index_json, bytes_after, output_bytes and loading_bytes from its linears and copies.
void lay_out_shards(Plan& plan, const Container& container);

}  // namespace quant::plan_detail
