// Observers: how the range of a group is chosen.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "quant/kernel_table.h"
#include "quant/scheme.h"
#include "rules.h"

namespace quant::rtn {

struct Observer {
  enum class Kind {
    minmax,
    percentile,  ///< ranks of the sorted values
    grid,        ///< range times expand * (1 - i / grid), the least sum of |error|^norm
    search       ///< more candidates around the best of that grid
  };
  Kind kind = Kind::minmax;
  double percentile = 0.9999;
  double maxshrink = 0.20;
  double expand = 1.0;
  double norm = 2.4;
  std::size_t grid = 100;
  PowerTable power{};
};

/// The observer that args.observer and args.observer_kwargs name. Throws Error{usage} for an unknown name or a value
/// that is out of range.
Observer make_observer(const QuantArgs& args);

/// Errors of candidate scales over the weights that share one.
class CandidateErrors {
 public:
  virtual ~CandidateErrors() = default;
  /// errors[i] = sum of importance |w - v|^norm for scale `effective[i]`, in units of unit^norm.
  virtual void evaluate(std::span<const float> effective, std::span<const float> zero_points, float unit,
                        std::span<double> errors) = 0;
};

struct ScaleChoice {
  float scale = 0;  ///< as stored
  float zero_point = 0;
};

/// Chooses the scale of a group of range [smallest, largest], both finite. Keeps its buffers between calls.
class ScaleSearch {
 public:
  ScaleChoice choose(const Rules& rules, const Observer& observer, float smallest, float largest,
                     CandidateErrors& errors);

 private:
  struct Shrink {
    float low, high, shift;  // factors of the range's ends, and what is added to the zero point
  };

  void try_all(const Rules& rules, CandidateErrors& errors);
  void refine_scale(const Rules& rules, CandidateErrors& errors);
  void refine_ends(const Rules& rules, CandidateErrors& errors);
  void build_candidates(const Rules& rules);

  float smallest_ = 0, largest_ = 0, unit_ = 1;
  std::vector<Shrink> shrinks_;
  std::vector<float> minima_, maxima_, scales_, zero_points_, effective_;
  std::vector<double> errors_;
  Shrink best_shrink_{1, 1, 0};
  ScaleChoice best_;
  double best_error_ = 0;
};

}  // namespace quant::rtn
