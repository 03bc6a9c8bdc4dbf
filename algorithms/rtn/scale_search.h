// Chooses the scale that makes the least error.
#pragma once

#include <span>
#include <vector>

#include "observer.h"
#include "rules.h"

namespace quant::rtn {

/// Errors of candidate scales over the weights that share one.
class CandidateErrors {
 public:
  virtual ~CandidateErrors() = default;
  /// errors[i] += sum of importance |w - v|^norm for scale `effective[i]`, in units of unit^norm.
  virtual void evaluate(std::span<const float> effective, std::span<const float> zero_points, float unit,
                        std::span<double> errors) = 0;
};

struct ScaleChoice {
  float scale = 0;  ///< as stored
  float zero_point = 0;
};

/// Evaluates candidates after their scales were rounded to the stored type, beginning with the plain range: no choice
/// is worse than that. Keeps its buffers between calls.
class ScaleSearch {
 public:
  /// The scale of a group of range [smallest, largest], both finite. `errors` is used only if the observer searches.
  ScaleChoice choose(const Rules& rules, const Observer& observer, float smallest, float largest,
                     CandidateErrors& errors);

 private:
  struct Shrink {
    float low, high, shift;  // factors of the range's ends, and what is added to the zero point
  };

  void add_joint(std::span<const float> factors);
  void add_codes(const Rules& rules, const Observer& observer, float absmax);
  void scale_candidates(const Rules& rules);
  void drop_repetitions(const Rules& rules);
  void try_all(const Rules& rules, CandidateErrors& errors);
  void refine_scale(const Rules& rules, CandidateErrors& errors);
  void refine_ends(const Rules& rules, CandidateErrors& errors);

  float smallest_ = 0, largest_ = 0, unit_ = 0;
  std::vector<Shrink> shrinks_;
  std::vector<float> minima_, maxima_, scales_, zero_points_, effective_;
  std::vector<double> errors_;
  Shrink best_shrink_{1, 1, 0};
  ScaleChoice best_;
  double best_error_ = 0;
};

}  // namespace quant::rtn
