// Where a program's channels can be rescaled: a value, what makes it, and every linear that reads it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quant/calibrated.h"
#include "quant/model_program.h"

namespace quant {

/// A reader or a producer: weight number `weight` of the LinearOp at `op`.
struct LinearPlace {
  std::size_t op = 0;
  std::size_t weight = 0;
};

/// Rescaling channel c of `value` by 1/s[c] means: dividing its producer's channel by s[c] and multiplying column c of
/// every reader.
struct SmoothingSite {
  ProducerKind kind = ProducerKind::norm;
  ValueId value = -1;                ///< statistics are those of its rows
  int expert = -1;                   ///< of this expert's rows only; -1: of all
  std::string smooth_layer;          ///< module of the producer
  std::size_t norm = 0;              ///< kind norm: its operation
  LinearPlace linear;                ///< other kinds: the producing linear
  std::vector<std::uint32_t> rows;   ///< other kinds: its row that feeds column c [cols]
  std::vector<LinearPlace> readers;  ///< all of them
};

/// All sites of a program in order of execution. A value that anything but a linear reads cannot be rescaled.
std::vector<SmoothingSite> find_smoothing_sites(const Program& program);

inline const LinearWeight& weight_at(const Program& program, const LinearPlace& place) {
  return std::get<LinearOp>(program.ops[place.op]).weights[place.weight];
}

}  // namespace quant
