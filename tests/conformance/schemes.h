// Schemes of weights that the laws of conformance are tried with.
#pragma once

#include <vector>

#include "rtn/reference.h"

namespace quant::test {

/// Grids, and codebooks of every kind.
inline std::vector<QuantArgs> every_scheme() {
  std::vector<QuantArgs> list = all_schemes();
  for (const Strategy strategy : {Strategy::tensor, Strategy::channel, Strategy::group, Strategy::block}) {
    const std::int64_t group = strategy == Strategy::group ? 24 : 0;
    for (const int bits : {1, 3, 4, 8}) list.push_back(make_args(NumberType::codebook, bits, true, strategy, group));
  }
  for (const Codebook codebook : {Codebook::nf4, Codebook::fp4}) {
    for (const Strategy strategy :
         {Strategy::tensor, Strategy::channel, Strategy::group, Strategy::block, Strategy::flat}) {
      const bool grouped = strategy == Strategy::group || strategy == Strategy::flat;
      QuantArgs args = make_args(NumberType::codebook, 4, true, strategy, grouped ? 24 : 0);
      args.codebook = codebook;
      list.push_back(args);
      args.double_quant = grouped;
      if (grouped) list.push_back(args);
    }
  }
  for (const Strategy strategy : {Strategy::tensor, Strategy::channel, Strategy::group, Strategy::block}) {
    QuantArgs args = make_args(NumberType::codebook, 1, true, strategy, strategy == Strategy::group ? 24 : 0);
    args.codebook = Codebook::sign;
    list.push_back(args);
  }
  for (const int bits : {2, 4}) {
    QuantArgs args = make_args(NumberType::integer, bits, false, Strategy::group, 24);
    args.zp_dtype = DType::F16;
    list.push_back(args);
  }
  return list;
}

}  // namespace quant::test
