// The parts of a job file as they stand there, before jobs are made of them.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fields.h"
#include "quant/batch.h"

namespace quant::recipe_yaml {

/// A text and where it stands.
struct Placed {
  std::string text;
  Place where;
};

/// What defaults, models, recipes and jobs can say.
struct BatchItem {
  Place where;
  std::optional<Placed> model;
  std::optional<Placed> recipe;
  std::optional<Placed> name;
  std::optional<Placed> output;
  std::map<std::string, Placed> set;
  std::map<std::string, Placed> options;
  struct Conversion {
    Place where;
    Placed to;
    std::optional<Placed> output;
    BatchOptions options;
  };
  std::optional<Conversion> convert;
};

/// Which of `model`, `recipe`, `name` and `output` an item may have.
struct ItemKeys {
  bool model = false;
  bool recipe = false;
  bool name = false;
  bool output = false;
};

class BatchItemReader {
 public:
  /// Relative paths are taken from `folder`.
  BatchItemReader(Mistakes& mistakes, std::string folder) : mistakes_(mistakes), folder_(std::move(folder)) {}

  /// A mapping of these keys and options. `owner` ends sentences: "defaults".
  BatchItem read(const Node& node, const ItemKeys& keys, std::string_view owner);
  /// A recipe's or model's short form: a text alone.
  BatchItem read_short(const Node& node, bool model, std::string_view owner);
  std::string resolve(const std::string& path) const;
  /// A text that the command line reads as a size.
  std::optional<std::string> read_size(const Node& node, std::string_view field);

 private:
  void read_value(const Node::Entry& entry, const BatchOption& option, std::map<std::string, Placed>& options);
  std::optional<std::string> value_text(const Node& node, const BatchOption& option);
  void read_set(const Node& node, BatchItem& item);
  void read_convert(const Node& node, BatchItem& item);
  std::optional<Placed> placed_text(const Node& node, std::string_view field);

  Mistakes& mistakes_;
  std::string folder_;
};

/// The option of this key, or null.
const BatchOption* find_option(const std::vector<BatchOption>& options, std::string_view key);

}  // namespace quant::recipe_yaml
