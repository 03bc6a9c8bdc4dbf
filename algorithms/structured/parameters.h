// Recipe parameters of structured pruning as options.
#pragma once

#include <initializer_list>
#include <string>
#include <utility>

#include "quant/registry.h"
#include "quant/structured.h"

namespace quant::structured_pruning {

/// An algorithm that is its options.
class Pruning final : public Restructurer {
 public:
  explicit Pruning(StructuredOptions options) : options_(std::move(options)) {}
  CalibrationNeeds needs() const override { return {}; }
  const StructuredOptions& options() const override { return options_; }

 private:
  StructuredOptions options_;
};

/// Reads parameters one by one. Errors are Error{usage} whose sentence begins with the parameter's name.
class Reader {
 public:
  explicit Reader(const Parameters& parameters) : parameters_(parameters) {}

  double number(const std::string& name, double absent) const;
  bool flag(const std::string& name, bool absent) const;
  std::string text(const std::string& name, const std::string& absent) const;
  /// A number from 0 on: below 1 a fraction, from 1 on a whole number of units.
  CutAmount amount(const std::string& name) const;
  std::uint64_t divisor(const std::string& name, std::uint64_t absent) const;
  /// The value that goes with a word.
  template <class T>
  T word(const std::string& name, std::initializer_list<std::pair<const char*, T>> words) const {
    const std::string found = text(name, words.begin()->first);
    for (const auto& [word, value] : words) {
      if (found == word) return value;
    }
    std::string known;
    for (const auto& one : words) known += (known.empty() ? "" : ", ") + std::string(one.first);
    refuse_word(name, found, known);
  }

 private:
  [[noreturn]] static void refuse_word(const std::string& name, const std::string& found, const std::string& known);
  const KwValue* find(const std::string& name) const;
  const Parameters& parameters_;
};

}  // namespace quant::structured_pruning
