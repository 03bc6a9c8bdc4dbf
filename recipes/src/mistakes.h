// Collects everything that is wrong with a recipe, to be reported at once.
#pragma once

#include <cstddef>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quant/recipe.h"

namespace quant::recipe_yaml {

/// Line and column in characters, counted from 1; 0: unknown.
struct Place {
  int line = 0;
  int column = 0;
};

class Mistakes {
 public:
  /// `what` the file is, and the `hint` that ends what is thrown.
  explicit Mistakes(std::string file, std::string what = "recipe",
                    std::string hint = "The recipe language is described in docs/recipes.md.")
      : file_(std::move(file)), what_(std::move(what)), hint_(std::move(hint)) {}
  const std::string& what() const { return what_; }

  /// `sentence` is cut and its control characters are escaped, so that every mistake stays one readable line.
  void add(Place place, std::string_view sentence);
  /// What is at `place` is known to be wrong: later mistakes there would only be consequences and are dropped.
  void settle(Place place) { settled_.emplace(place.line, place.column); }
  std::size_t count() const { return found_.size() + dropped_; }
  /// True if there are so many that suggestions are no longer worth their time.
  bool crowded() const { return found_.size() >= kMostKept; }
  SourceLocation at(Place place) const { return {file_, place.line, place.column}; }
  /// Throws Error{recipe} with one line for each mistake in the order of the file, if there is any.
  void throw_if_any() const;

 private:
  static constexpr std::size_t kMostKept = 1000;
  struct Mistake {
    Place place;
    std::string sentence;
  };
  std::string file_;
  std::string what_;
  std::string hint_;
  std::vector<Mistake> found_;
  std::size_t dropped_ = 0;
  std::set<std::pair<int, int>> settled_;
};

/// 'text', shortened if it is long.
std::string in_quotes(std::string_view text);
/// ", did you mean 'x'?" with the nearest candidate, or else "; <known> are a, b, c".
std::string suggestion(std::string_view name, const std::vector<std::string>& candidates, std::string_view known);
/// "a, b, c"
std::string joined(const std::vector<std::string>& names);

}  // namespace quant::recipe_yaml
