// A recipe's text as a tree of nodes that know where they stand. Bounded: hostile text ends in a mistake.
#pragma once

#include <cstddef>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "mistakes.h"

namespace quant::recipe_yaml {

inline constexpr std::size_t kLongestText = std::size_t{1} << 20;  // bytes
inline constexpr std::size_t kMostNodes = 100'000;                 // after following aliases
inline constexpr std::size_t kWeightBytes = 64;                    // a text counts as one more node for so many
inline constexpr std::size_t kDeepest = 32;                        // nested lists and mappings
inline constexpr std::size_t kLongestScalar = 16'384;              // bytes

struct Node {
  enum class Kind { null, scalar, list, map };
  struct Entry {
    std::string key;
    Place where;             ///< of the key
    std::size_t offset = 0;  ///< of the key
    Node* value = nullptr;   ///< never null
  };

  Kind kind = Kind::null;
  Place where;
  std::size_t offset = 0;  ///< byte in the text where the node (its anchor, if it has one) begins
  bool plain = false;      ///< a scalar without quotes: its look decides its type
  bool is_key = false;
  bool open = false;           ///< still being read: an alias may not refer to it
  std::size_t weight = 1;      ///< nodes of the tree below, aliases followed; long texts count more
  std::string text;            ///< of a scalar
  std::vector<Node*> items;    ///< of a list
  std::vector<Entry> entries;  ///< of a map, in order; keys are unique, `<<` is merged

  bool is(Kind wanted) const { return kind == wanted; }
  /// Null if the map has no such key.
  const Entry* find(std::string_view key) const;
};

/// Owns the nodes; an alias shares the node that it refers to.
struct Document {
  std::deque<Node> nodes;
  Node* root = nullptr;  ///< null if the text cannot be read: the mistakes say why
};

/// True if YAML reads the plain scalar as null.
bool is_null_text(std::string_view text);

/// Reads YAML or JSON. Duplicate keys and tags are mistakes that do not end the reading.
Document read_document(std::string_view text, Mistakes& mistakes);

}  // namespace quant::recipe_yaml
