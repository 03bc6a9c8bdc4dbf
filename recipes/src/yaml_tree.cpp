#include "yaml_tree.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <sstream>
#include <unordered_map>
#include <unordered_set>

#include "text_check.h"

namespace quant::recipe_yaml {
namespace {

/// Ends the reading of a text that is not to be read any further.
struct Stop {
  Place place;
  std::string sentence;
};

class TreeBuilder final : public YAML::EventHandler {
 public:
  TreeBuilder(std::string_view text, Document& document, Mistakes& mistakes)
      : columns_(text), document_(document), mistakes_(mistakes) {}

  Place place(const YAML::Mark& mark) {
    return {mark.line + 1, columns_.at(static_cast<std::size_t>(std::max(mark.pos, 0)))};
  }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ > 0)
      throw Stop{place(mark), "a " + mistakes_.what() + " is one YAML document, a second one begins here"};
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { attach(add(Node::Kind::null, mark, anchor)); }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end() || found->second->open) {
      throw Stop{place(mark), "an alias may not refer to a node that contains it"};
    }
    alias_place_ = place(mark);
    attach(found->second, true);
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    if (value.size() > kLongestScalar) {
      throw Stop{place(mark), fmt::format("a value of {} bytes, at most {} are read", value.size(), kLongestScalar)};
    }
    check_tag(mark, tag);
    Node* node = add(Node::Kind::scalar, mark, anchor);
    node->plain = tag != "!";
    node->weight += value.size() / kWeightBytes;
    node->text = value;
    attach(node);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value /*style*/) override {
    begin(Node::Kind::list, mark, tag, anchor);
  }
  void OnSequenceEnd() override { end(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value /*style*/) override {
    begin(Node::Kind::map, mark, tag, anchor);
  }
  void OnMapEnd() override { end(); }

 private:
  struct Frame {
    Node* node = nullptr;
    Node* key = nullptr;  ///< of a map: the key whose value comes next
    std::unordered_set<std::string> keys;
    std::vector<Node*> merged;
  };

  Node* add(Node::Kind kind, const YAML::Mark& mark, YAML::anchor_t anchor) {
    if (document_.nodes.size() >= kMostNodes) {
      throw Stop{place(mark), fmt::format("the {} has more than {} values", mistakes_.what(), kMostNodes)};
    }
    Node& node = document_.nodes.emplace_back();
    node.kind = kind;
    node.where = place(mark);
    node.offset = static_cast<std::size_t>(std::max(mark.pos, 0));
    if (anchor != 0) anchors_[anchor] = &node;
    return &node;
  }

  void check_tag(const YAML::Mark& mark, const std::string& tag) {
    if (tag.empty() || tag == "?" || tag == "!") return;
    mistakes_.add(place(mark), mistakes_.what() + "s have no tags, remove " + in_quotes(tag));
  }

  void begin(Node::Kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    if (stack_.size() >= kDeepest) {
      throw Stop{place(mark), fmt::format("lists and mappings are nested deeper than {}", kDeepest)};
    }
    check_tag(mark, tag);
    Node* node = add(kind, mark, anchor);
    node->open = true;
    stack_.push_back({node, nullptr, {}, {}});
  }

  void end() {
    Frame frame = std::move(stack_.back());
    stack_.pop_back();
    merge(frame);
    frame.node->open = false;
    attach(frame.node);
  }

  void attach(Node* child, bool alias = false) {
    if (stack_.empty()) {
      document_.root = child;
      return;
    }
    Frame& frame = stack_.back();
    if (frame.node->is(Node::Kind::map) && frame.key == nullptr) {
      if (alias || !child->is(Node::Kind::scalar)) {
        throw Stop{alias ? alias_place_ : child->where, "a key must be a name"};
      }
      child->is_key = true;
      frame.key = child;
      return;
    }
    frame.node->weight += child->weight + (frame.key == nullptr ? 0 : frame.key->weight);
    if (frame.node->weight > kMostNodes) {
      throw Stop{alias ? alias_place_ : child->where,
                 fmt::format("aliases blow the {} up to more than {} values", mistakes_.what(), kMostNodes)};
    }
    if (frame.node->is(Node::Kind::list)) {
      frame.node->items.push_back(child);
    } else {
      add_entry(frame, child, alias);
    }
  }

  void add_entry(Frame& frame, Node* value, bool alias) {
    Node* key = frame.key;
    frame.key = nullptr;
    // An empty value stands, for yaml-cpp, where the next token begins: perhaps lines below.
    if (!alias && value->is(Node::Kind::null)) value->where = key->where;
    if (!frame.keys.insert(key->text).second) {
      mistakes_.add(key->where, "the key " + in_quotes(key->text) + " is there twice");
      return;
    }
    if (key->plain && key->text == "<<") {
      collect_merged(frame, key->where, value);
      return;
    }
    frame.node->entries.push_back({key->text, key->where, key->offset, value});
  }

  void collect_merged(Frame& frame, Place where, Node* value) {
    const std::vector<Node*> sources = value->is(Node::Kind::list) ? value->items : std::vector<Node*>{value};
    for (Node* source : sources) {
      if (!source->is(Node::Kind::map)) {
        mistakes_.add(where, "'<<' takes a mapping or a list of mappings");
        return;
      }
    }
    frame.merged = sources;
  }

  /// Adds what the map does not say itself; of several sources the first wins (YAML 1.1 merge keys).
  void merge(Frame& frame) {
    for (const Node* source : frame.merged) {
      for (const auto& entry : source->entries) {
        if (frame.keys.insert(entry.key).second) frame.node->entries.push_back(entry);
      }
    }
  }

  Columns columns_;
  Document& document_;
  Mistakes& mistakes_;
  std::unordered_map<YAML::anchor_t, Node*> anchors_;
  std::vector<Frame> stack_;
  Place alias_place_;
  int documents_ = 0;
};

}  // namespace

const Node::Entry* Node::find(std::string_view key) const {
  for (const auto& entry : entries) {
    if (entry.key == key) return &entry;
  }
  return nullptr;
}

bool is_null_text(std::string_view text) {
  return text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL";
}

Document read_document(std::string_view text, Mistakes& mistakes) {
  Document document;
  if (!check_text(text, mistakes)) return document;
  std::istringstream stream{std::string(text)};
  TreeBuilder builder(text, document, mistakes);
  bool complete = false;
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
    complete = true;
  } catch (const Stop& stop) {
    mistakes.add(stop.place, stop.sentence);
  } catch (const YAML::Exception& error) {
    mistakes.add(builder.place(error.mark), "not valid YAML: " + error.msg);
  }
  if (!complete) document.root = nullptr;
  return document;
}

}  // namespace quant::recipe_yaml
