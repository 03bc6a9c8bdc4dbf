#include "containers/safetensors/header_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include "containers/io/text.h"
#include "quant/error.h"

namespace quant::safetensors {
namespace {

using io::has_control_character;
using io::in_quotes;
using io::json_objection;

using Json = nlohmann::json;

constexpr const char* kDeserialization = "InvalidHeaderDeserialization";
constexpr const char* kHint =
    "The file is damaged, or was not written by a safetensors writer: fetch or write it again.";

// A state machine on the parser's events: it knows at every point the one kind of value that may come next.
class HeaderHandler final : public nlohmann::json_sax<Json> {
 public:
  HeaderHandler(HeaderJson& out, std::string_view file) : out_(out), file_(file) {}

  bool null() override {
    // The reference reads a null here as "no metadata".
    if (state_ != State::metadata_value) fail_type("null");
    state_ = State::top;
    return true;
  }
  bool boolean(bool) override { fail_type("a boolean"); }
  bool number_integer(number_integer_t value) override { fail_type(fmt::format("the negative number {}", value)); }
  bool number_float(number_float_t, const string_t& text) override {
    fail_type(fmt::format("{}, which is no integer of 64 bits", in_quotes(text)));
  }
  bool binary(binary_t&) override { fail_type("binary data"); }
  bool number_unsigned(number_unsigned_t value) override;
  bool string(string_t& value) override;
  bool start_object(std::size_t) override;
  bool key(string_t& name) override;
  bool end_object() override;
  bool start_array(std::size_t) override;
  bool end_array() override;
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    fail(kDeserialization, fmt::format("it is not valid JSON at byte {} of {}", position, where()));
  }

 private:
  enum class State {
    start,           // nothing read yet
    top,             // in the outer object
    metadata_value,  // after "__metadata__":
    metadata,        // in that object
    metadata_text,   // after one of its keys
    entry_value,     // after a tensor's name
    entry,           // in a tensor's object
    dtype,           // after "dtype":
    shape_value,     // after "shape":
    shape,           // in that array
    offsets_value,   // after "data_offsets":
    offsets,         // in that array
    done             // after the outer object
  };

  [[noreturn]] void fail(const char* kind, const std::string& reason) const {
    throw Error(ErrorCode::corrupt_file, fmt::format("The header of {} is not valid: {}.", in_quotes(file_), reason),
                kHint, kind);
  }
  [[noreturn]] void fail_type(const std::string& found) const {
    fail(kDeserialization, fmt::format("{} holds {} where {} belongs", where(), found, expected()));
  }
  std::string where() const;
  const char* expected() const;
  void top_key(string_t& name);
  void entry_key(const string_t& name);
  void begin_field(bool& seen, const char* name, State next);
  HeaderEntry& entry() { return out_.entries.back(); }

  HeaderJson& out_;
  std::string_view file_;
  State state_ = State::start;
  bool metadata_seen_ = false;
  bool dtype_seen_ = false;
  bool shape_seen_ = false;
  bool offsets_seen_ = false;
  std::size_t offset_count_ = 0;
};

std::string HeaderHandler::where() const {
  switch (state_) {
    case State::start:
    case State::top:
    case State::done:
      return "the header";
    case State::metadata_value:
    case State::metadata:
      return "'__metadata__'";
    case State::metadata_text:
      return fmt::format("'__metadata__' key {}", in_quotes(out_.metadata.back().first));
    case State::entry_value:
    case State::entry:
      return fmt::format("tensor {}", in_quotes(out_.entries.back().info.name));
    case State::dtype:
      return fmt::format("'dtype' of tensor {}", in_quotes(out_.entries.back().info.name));
    case State::shape_value:
    case State::shape:
      return fmt::format("'shape' of tensor {}", in_quotes(out_.entries.back().info.name));
    case State::offsets_value:
    case State::offsets:
      return fmt::format("'data_offsets' of tensor {}", in_quotes(out_.entries.back().info.name));
  }
  return "the header";
}

const char* HeaderHandler::expected() const {
  switch (state_) {
    case State::start:
    case State::metadata_value:
    case State::entry_value:
      return "an object";
    case State::metadata_text:
    case State::dtype:
      return "a string";
    case State::shape_value:
    case State::offsets_value:
      return "an array";
    case State::shape:
    case State::offsets:
      return "an integer from 0";
    case State::top:
    case State::metadata:
    case State::entry:
    case State::done:
      break;
  }
  return "nothing";
}

bool HeaderHandler::number_unsigned(number_unsigned_t value) {
  if (state_ == State::shape) {
    if (entry().info.shape.size() == kMaxRank) {
      fail("RankTooLarge", fmt::format("{} has more than {} dimensions", where(), kMaxRank));
    }
    entry().info.shape.push_back(value);
  } else if (state_ == State::offsets) {
    if (offset_count_ == 2) fail(kDeserialization, fmt::format("{} has more than 2 numbers", where()));
    (offset_count_ == 0 ? entry().begin : entry().end) = value;
    ++offset_count_;
  } else {
    fail_type(fmt::format("the number {}", value));
  }
  return true;
}

bool HeaderHandler::string(string_t& value) {
  if (state_ == State::metadata_text) {
    out_.metadata.back().second = std::move(value);
    state_ = State::metadata;
  } else if (state_ == State::dtype) {
    const std::optional<DType> dtype = parse_dtype(value);
    if (!dtype)
      fail(kDeserialization, fmt::format("{} is {}, which is no type of the format", where(), in_quotes(value)));
    entry().info.dtype = *dtype;
    state_ = State::entry;
  } else {
    fail_type(fmt::format("the string {}", in_quotes(value)));
  }
  return true;
}

bool HeaderHandler::start_object(std::size_t) {
  switch (state_) {
    case State::start:
      state_ = State::top;
      break;
    case State::metadata_value:
      state_ = State::metadata;
      break;
    case State::entry_value:
      state_ = State::entry;
      break;
    default:
      fail_type("an object");
  }
  return true;
}

void HeaderHandler::top_key(string_t& name) {
  if (name == "__metadata__") {
    // The reference reports this one, unlike two tensors of one name, as a failure to deserialize.
    if (metadata_seen_) fail(kDeserialization, "'__metadata__' is there twice");
    metadata_seen_ = true;
    state_ = State::metadata_value;
    return;
  }
  if (name.empty()) fail("InvalidName", "a tensor has an empty name");
  if (has_control_character(name)) {
    fail("InvalidName", fmt::format("the tensor name {} holds a control character", in_quotes(name)));
  }
  out_.entries.emplace_back().info.name = std::move(name);
  dtype_seen_ = shape_seen_ = offsets_seen_ = false;
  offset_count_ = 0;
  state_ = State::entry_value;
}

void HeaderHandler::begin_field(bool& seen, const char* name, State next) {
  if (seen) fail(kDeserialization, fmt::format("{} has '{}' twice", where(), name));
  seen = true;
  state_ = next;
}

void HeaderHandler::entry_key(const string_t& name) {
  if (name == "dtype") return begin_field(dtype_seen_, "dtype", State::dtype);
  if (name == "shape") return begin_field(shape_seen_, "shape", State::shape_value);
  if (name == "data_offsets") return begin_field(offsets_seen_, "data_offsets", State::offsets_value);
  fail("UnknownField", fmt::format("{} has the unknown field {}", where(), in_quotes(name)));
}

bool HeaderHandler::key(string_t& name) {
  if (state_ == State::top) {
    top_key(name);
  } else if (state_ == State::metadata) {
    out_.metadata.emplace_back(std::move(name), std::string());
    state_ = State::metadata_text;
  } else {
    entry_key(name);  // the parser gives keys inside objects only, and the last kind of object is an entry
  }
  return true;
}

bool HeaderHandler::end_object() {
  if (state_ == State::entry) {
    for (const auto& [seen, name] :
         {std::pair{dtype_seen_, "dtype"}, std::pair{shape_seen_, "shape"}, std::pair{offsets_seen_, "data_offsets"}}) {
      if (!seen) fail(kDeserialization, fmt::format("{} has no '{}'", where(), name));
    }
    entry().info.shape.shrink_to_fit();
  }
  state_ = state_ == State::top ? State::done : State::top;
  return true;
}

bool HeaderHandler::start_array(std::size_t) {
  if (state_ == State::shape_value) {
    state_ = State::shape;
  } else if (state_ == State::offsets_value) {
    state_ = State::offsets;
  } else {
    fail_type("an array");
  }
  return true;
}

bool HeaderHandler::end_array() {
  if (state_ == State::offsets && offset_count_ != 2) {
    fail(kDeserialization, fmt::format("{} has {} numbers instead of 2", where(), offset_count_));
  }
  state_ = State::entry;
  return true;
}

[[noreturn]] void fail_duplicate(std::string_view what, std::string_view name, std::string_view file) {
  throw Error(ErrorCode::corrupt_file,
              fmt::format("The header of {} has the {} {} twice.", in_quotes(file), what, in_quotes(name)), kHint,
              "DuplicateKey");
}

// By sorting: a hash table could be slowed down by names made to collide.
void reject_duplicate_names(const std::vector<HeaderEntry>& entries, std::string_view file) {
  std::vector<std::uint32_t> order(entries.size());
  std::iota(order.begin(), order.end(), 0U);
  const auto name = [&](std::uint32_t i) -> const std::string& { return entries[i].info.name; };
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return name(a) < name(b); });
  const auto same = std::adjacent_find(order.begin(), order.end(),
                                       [&](std::uint32_t a, std::uint32_t b) { return name(a) == name(b); });
  if (same != order.end()) fail_duplicate("tensor", name(*same), file);
}

}  // namespace

HeaderJson read_header_json(std::string_view text, std::string_view file) {
  if (const auto objection = json_objection(text)) {
    throw Error(ErrorCode::corrupt_file,
                fmt::format("The header of {} is not valid JSON: {}.", in_quotes(file), *objection), kHint,
                kDeserialization);
  }
  HeaderJson result;
  HeaderHandler handler(result, file);
  Json::sax_parse(text.data(), text.data() + text.size(), &handler);
  reject_duplicate_names(result.entries, file);
  std::sort(result.metadata.begin(), result.metadata.end());
  const auto same = std::adjacent_find(result.metadata.begin(), result.metadata.end(),
                                       [](const auto& a, const auto& b) { return a.first == b.first; });
  if (same != result.metadata.end()) fail_duplicate("metadata key", same->first, file);
  return result;
}

}  // namespace quant::safetensors
