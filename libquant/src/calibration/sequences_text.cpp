// Text and JSON lines. Documents are tokenized by all processors, in batches, and added in order.
#include <fstream>

#include "calibration/chat_template.h"
#include "calibration/sources.h"
#include "output/files.h"
#include "parallel_tasks.h"
#include "quant/error.h"

namespace quant::calibration {

namespace {

using nlohmann::json;

constexpr std::size_t kBatchBytes = 8 << 20;

[[noreturn]] void wrong(const std::string& where, const std::string& what) {
  throw Error(ErrorCode::corrupt_file, where + ": " + what,
              "Each line must be an object with \"text\" or \"messages\"; see docs/calibration.md.", "InvalidDocument");
}

std::string document_text(const json& document, const ChatTemplate& chat, const std::string& where) {
  if (!document.is_object()) wrong(where, "is not an object");
  if (const auto text = document.find("text"); text != document.end()) {
    if (!text->is_string()) wrong(where, "has a 'text' that is no string");
    return text->get<std::string>();
  }
  const auto messages = document.find("messages");
  if (messages == document.end()) wrong(where, "has neither 'text' nor 'messages'");
  return join_messages(*messages, chat, where);
}

json parse(const std::string& text, const std::string& where) {
  try {
    return json::parse(text);
  } catch (const json::exception& error) {
    wrong(where, std::string("is not JSON: ") + error.what());
  }
}

/// Collects texts and tokenizes them when there are enough.
class Batch {
 public:
  Batch(const Tokenizer& tokenizer, const CalibrationOptions& options, Packer& packer)
      : tokenizer_(tokenizer), options_(options), packer_(packer) {}

  void add(std::string text) {
    bytes_ += text.size();
    texts_.push_back(std::move(text));
    if (bytes_ >= limit_) flush();
  }

  void flush() {
    std::vector<std::vector<std::int32_t>> ids(texts_.size());
    const std::vector<std::uint64_t> costs(texts_.size(), 1);
    run_tasks(costs, {}, [&](std::size_t i) { ids[i] = tokenizer_.encode(texts_[i], options_.special); });
    for (const auto& document : ids) {
      if (packer_.full()) break;
      packer_.add(document);
    }
    texts_.clear();
    bytes_ = 0;
    limit_ = kBatchBytes;
  }

 private:
  const Tokenizer& tokenizer_;
  const CalibrationOptions& options_;
  Packer& packer_;
  std::vector<std::string> texts_;
  std::size_t bytes_ = 0;
  std::size_t limit_ = kBatchBytes / 16;  // a few samples are often enough
};

bool is_list(std::ifstream& in) {
  in >> std::ws;
  const bool list = in.peek() == '[';
  in.clear();
  in.seekg(0);
  return list;
}

}  // namespace

void read_text(const std::filesystem::path& file, const Tokenizer& tokenizer, const CalibrationOptions& options,
               Packer& packer) {
  packer.add(tokenizer.encode(read_text_file(file), options.special));
}

void read_json(const std::filesystem::path& file, const Tokenizer& tokenizer, const CalibrationOptions& options,
               Packer& packer) {
  const std::string name = file.string();
  std::ifstream in(file, std::ios::binary);
  if (!in) throw Error(ErrorCode::io, name + ": cannot be read", "Check its permissions.");
  Batch batch(tokenizer, options, packer);
  if (is_list(in)) {
    const json list = parse(read_text_file(file), name);
    for (std::size_t i = 0; i < list.size() && !packer.full(); ++i) {
      batch.add(document_text(list[i], options.chat, name + ", element " + std::to_string(i + 1)));
    }
    return batch.flush();
  }
  std::string line;
  for (std::uint64_t number = 1; !packer.full() && std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = name + ", line " + std::to_string(number);
    batch.add(document_text(parse(line, where), options.chat, where));
  }
  if (in.bad()) throw Error(ErrorCode::io, name + ": cannot be read to its end");
  batch.flush();
}

}  // namespace quant::calibration
