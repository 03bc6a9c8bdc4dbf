#include "quant/batch_yaml.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "batch_jobs.h"
#include "quant/error.h"

namespace quant {
namespace {

using namespace recipe_yaml;

constexpr std::string_view kHint = "Job files are described in docs/batch.md.";

class BatchReader {
 public:
  BatchReader(Mistakes& mistakes, const std::string& folder) : mistakes_(mistakes), reader_(mistakes, folder) {}

  JobBatch read(const Node& root) {
    static const std::vector<std::string> known = {"version", "output",  "defaults",        "matrix",
                                                   "jobs",    "machine", "share_statistics"};
    check_keys(mistakes_, root, known, "a job file");
    read_version(root);
    read_output(root);
    if (const Node* node = given(root, "defaults")) parts_.defaults = reader_.read(*node, {}, "defaults");
    if (const Node* node = given(root, "matrix")) read_matrix(*node);
    if (const Node* node = given(root, "jobs")) read_jobs(*node);
    if (const Node* node = given(root, "machine")) read_machine(*node);
    if (const Node* node = given(root, "share_statistics")) {
      batch_.share_statistics = read_bool(mistakes_, *node, "share_statistics").value_or(true);
    }
    const bool sound = mistakes_.count() == 0;
    batch_.jobs = make_jobs(parts_, reader_, mistakes_);
    if (batch_.jobs.empty() && sound && mistakes_.count() == 0) {
      mistakes_.add(root.where, "there are no jobs: give 'matrix' with models and recipes, or a list 'jobs'");
    }
    batch_.root = reader_.resolve(root_of(parts_.output.text));
    return std::move(batch_);
  }

 private:
  void read_version(const Node& root) {
    const Node* node = given(root, "version");
    if (node == nullptr) {
      mistakes_.add(root.where, fmt::format("'version: {}' is missing", kBatchVersion));
      return;
    }
    const auto version = read_integer(mistakes_, *node, "version");
    if (version && *version != kBatchVersion) {
      mistakes_.add(node->where,
                    fmt::format("version {} of job files is not known here, only {}", *version, kBatchVersion));
    }
  }

  void read_output(const Node& root) {
    const Node* node = given(root, "output");
    if (node == nullptr) {
      mistakes_.add(root.where, "'output' is missing: where outputs go, such as output: \"out/{model}-{recipe}\"");
      return;
    }
    const auto text = read_text(mistakes_, *node, "output");
    if (text && text->empty()) mistakes_.add(node->where, "output: an empty text");
    if (text) parts_.output = {*text, node->where};
  }

  const Node* list_of(const Node& map, const char* key, bool required) {
    const Node* node = given(map, key);
    if (node == nullptr) {
      if (required) mistakes_.add(map.where, fmt::format("matrix: '{}' is missing", key));
      return nullptr;
    }
    if (node->is(Node::Kind::list) && !node->items.empty()) return node;
    mistakes_.add(node->where, fmt::format("{}: expected a list, found {}", key,
                                           node->is(Node::Kind::list) ? "an empty one" : describe(*node)));
    return nullptr;
  }

  void read_matrix(const Node& node) {
    if (!is_map(mistakes_, node, "matrix")) return;
    check_keys(mistakes_, node, {"models", "recipes", "exclude"}, "matrix");
    for (const bool models : {true, false}) {
      const Node* list = list_of(node, models ? "models" : "recipes", true);
      if (list == nullptr) continue;
      for (const Node* item : list->items) {
        (models ? parts_.models : parts_.recipes).push_back(read_axis(*item, models));
      }
    }
    const Node* list = list_of(node, "exclude", false);
    if (list == nullptr) return;
    for (const Node* item : list->items) read_exclusion(*item);
  }

  BatchItem read_axis(const Node& node, bool models) {
    const char* key = models ? "model" : "recipe";
    if (!node.is(Node::Kind::map)) return reader_.read_short(node, models, models ? "models" : "recipes");
    BatchItem item = reader_.read(node, {models, !models, true, false}, models ? "models" : "recipes");
    if (given(node, key) == nullptr) mistakes_.add(node.where, fmt::format("{}s: '{}' is missing", key, key));
    return item;
  }

  void read_exclusion(const Node& node) {
    if (!is_map(mistakes_, node, "exclude")) return;
    check_keys(mistakes_, node, {"model", "recipe"}, "exclude");
    Exclusion exclusion;
    exclusion.model.where = exclusion.recipe.where = node.where;
    for (const bool model : {true, false}) {
      const Node* value = given(node, model ? "model" : "recipe");
      if (value == nullptr) continue;
      const auto text = read_text(mistakes_, *value, model ? "model" : "recipe");
      if (text) (model ? exclusion.model : exclusion.recipe) = {*text, value->where};
    }
    if (exclusion.model.text.empty() && exclusion.recipe.text.empty()) {
      mistakes_.add(node.where, "exclude: give 'model', 'recipe', or both");
      return;
    }
    parts_.exclude.push_back(std::move(exclusion));
  }

  void read_jobs(const Node& node) {
    if (!node.is(Node::Kind::list)) {
      mistakes_.add(node.where, "jobs: expected a list, found " + describe(node));
      return;
    }
    for (const Node* entry : node.items) {
      BatchItem item = reader_.read(*entry, {true, true, true, true}, "jobs");
      for (const char* key : {"model", "recipe"}) {
        if (entry->is(Node::Kind::map) && given(*entry, key) == nullptr) {
          mistakes_.add(entry->where, fmt::format("jobs: '{}' is missing", key));
        }
      }
      parts_.jobs.push_back(std::move(item));
    }
  }

  void read_machine(const Node& node) {
    if (!is_map(mistakes_, node, "machine")) return;
    check_keys(mistakes_, node, {"memory", "threads", "jobs"}, "machine");
    const auto count = [&](const char* key) {
      const Node* value = given(node, key);
      if (value == nullptr) return 0;
      const auto whole = read_integer(mistakes_, *value, key);
      if (whole && (*whole < 1 || *whole > 1024)) {
        mistakes_.add(value->where, fmt::format("{}: {} is not from 1 to 1024", key, *whole));
        return 0;
      }
      return static_cast<int>(whole.value_or(0));
    };
    batch_.machine.threads = count("threads");
    batch_.machine.jobs = count("jobs");
    if (const Node* value = given(node, "memory")) {
      batch_.machine.memory = reader_.read_size(*value, "memory").value_or("");
    }
  }

  Mistakes& mistakes_;
  BatchItemReader reader_;
  BatchParts parts_;
  JobBatch batch_;
};

std::string folder_of(const std::string& file) { return std::filesystem::path(file).parent_path().string(); }

/// The file's bytes, at most one more than it may have.
std::string read_limited(const std::filesystem::path& path) {
  const auto fail = [&](const std::string& why) {
    throw Error(ErrorCode::io, fmt::format("cannot read the job file '{}': {}", path.string(), why));
  };
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) fail("it is a directory");
  errno = 0;
  std::ifstream stream(path, std::ios::binary);
  if (!stream) fail(errno != 0 ? std::strerror(errno) : "it cannot be opened");
  std::string bytes(kLongestText + 1, '\0');
  stream.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (stream.bad()) fail("reading failed");
  bytes.resize(static_cast<std::size_t>(stream.gcount()));
  return bytes;
}

}  // namespace

JobBatch parse_batch(std::string_view text, const std::string& file) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  Mistakes mistakes(file, "job file", std::string(kHint));
  const Document document = read_document(text, mistakes);
  if (document.root == nullptr || document.root->is(Node::Kind::null)) {
    if (mistakes.count() == 0) mistakes.add({}, "the job file is empty");
    mistakes.throw_if_any();
  }
  JobBatch batch;
  if (is_map(mistakes, *document.root, "job file")) {
    batch = BatchReader(mistakes, folder_of(file)).read(*document.root);
  }
  mistakes.throw_if_any();
  batch.file = file;
  return batch;
}

JobBatch load_batch(const std::filesystem::path& path) { return parse_batch(read_limited(path), path.string()); }

}  // namespace quant
