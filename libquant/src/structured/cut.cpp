#include "structured/cut.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>
#include <optional>

#include "quant/error.h"

namespace quant::structured {
namespace {

// Numbers of units that are kept, or nothing.
std::optional<std::size_t> place_of(const Units& kept, std::uint64_t unit) {
  const auto at = std::lower_bound(kept.begin(), kept.end(), unit);
  if (at == kept.end() || *at != unit) return std::nullopt;
  return static_cast<std::size_t>(at - kept.begin());
}

// If `name` is "<prefix><number>.<rest>" or "<prefix><number>": the number, and where the rest begins.
std::optional<std::pair<std::uint64_t, std::size_t>> number_after(const std::string& name, const std::string& prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  std::uint64_t number = 0;
  const char* begin = name.data() + prefix.size();
  const auto [end, error] = std::from_chars(begin, name.data() + name.size(), number);
  if (error != std::errc() || end == begin || (end != name.data() + name.size() && *end != '.')) return std::nullopt;
  return std::pair{number, static_cast<std::size_t>(end - name.data())};
}

// The number after `prefix` as it is after the cut; nothing if its unit is removed.
std::optional<std::string> renumbered(const std::string& name, const std::string& prefix, const Units& kept,
                                      std::uint64_t total) {
  const auto found = number_after(name, prefix);
  if (!found || found->first >= total) return name;
  const auto place = place_of(kept, found->first);
  if (!place) return std::nullopt;
  return fmt::format("{}{}{}", prefix, *place, name.substr(found->second));
}

class CutMaker {
 public:
  CutMaker(const Checkpoint& checkpoint, const ModelAxes& axes, const ProgramModel& model, const KeptUnits& kept)
      : checkpoint_(checkpoint), axes_(axes), model_(model), kept_(kept) {}

  CutList make(const std::vector<NewBias>& biases) {
    static const LayerUnits kNone;
    add_program(axes_.embeddings, kNone);
    for (std::size_t b = 0; b < axes_.blocks.size(); ++b) add_program(axes_.blocks[b], kept_.of_layer[b]);
    add_program(axes_.head, kNone);
    CutList list;
    for (const TensorInfo& info : checkpoint_.tensors()) finish(info, list);
    for (const NewBias& bias : biases) {
      TensorCut cut;
      cut.name = new_name(bias.module + ".bias", model_, kept_);
      if (cut.name.empty()) continue;
      cut.dtype = bias.dtype;
      cut.shape = {bias_rows_.at(bias.module)};
      list.tensors.push_back(std::move(cut));
    }
    return list;
  }

 private:
  void add_program(const BlockAxes& axes, const LayerUnits& units) {
    const KeptColumns columns(axes, kept_.hidden, units);
    for (const Op& op : axes.program->ops) {
      if (const auto* norm = std::get_if<NormOp>(&op)) add_norm(*norm, columns);
      if (const auto* linear = std::get_if<LinearOp>(&op)) add_linear(*linear, columns, units);
      if (const auto* table = std::get_if<EmbeddingOp>(&op)) {
        const TensorInfo& info = source(table->weight);
        add_part(table->weight, {0, all_units(info.shape.front()), columns.of(table->out)});
      }
    }
  }

  const TensorInfo& source(const std::string& name) const {
    const TensorInfo* info = checkpoint_.find(name);
    if (info != nullptr) return *info;
    throw Error(ErrorCode::unsupported,
                fmt::format("'{}' is not a tensor of its own in {}", name, checkpoint_.location().string()));
  }

  void add_part(const std::string& tensor, CutPart part) {
    std::vector<CutPart>& parts = parts_[tensor];
    for (const CutPart& other : parts) {
      if (other.slice != part.slice) continue;
      if (other.rows == part.rows && other.cols == part.cols) return;  // a head that is tied to the embeddings
      throw Error(ErrorCode::unsupported, fmt::format("'{}' would be cut in two different ways", tensor));
    }
    parts.push_back(std::move(part));
  }

  void add_row(const std::string& tensor, Units cols) {
    if (!tensor.empty()) add_part(tensor, {0, {0}, std::move(cols)});
  }

  void add_norm(const NormOp& op, const KeptColumns& columns) {
    if (op.group == 0) {
      add_row(op.weight, columns.of(op.out));
      add_row(op.bias, columns.of(op.out));
      return;
    }
    // One weight for all heads, or one for each: heads go, their width stays.
    add_row(op.weight, all_units(op.group));
    add_row(op.bias, all_units(op.group));
    if (op.group_weights.empty()) return;
    Units heads;
    for (const std::uint32_t column : columns.of(op.out)) {
      if (column % op.group == 0) heads.push_back(column / static_cast<std::uint32_t>(op.group));
    }
    for (std::size_t head = 0; head < op.group_weights.size(); ++head) {
      add_row(op.group_weights[head], all_units(op.group));
      const auto place = place_of(heads, head);
      const std::string& name = op.group_weights[head];
      const std::string prefix = op.module + ".norms.";
      renamed_[name] = place ? prefix + std::to_string(*place) + name.substr(number_after(name, prefix)->second) : "";
    }
  }

  void add_linear(const LinearOp& op, const KeptColumns& columns, const LayerUnits& units) {
    for (std::size_t e = 0; e < op.weights.size(); ++e) {
      const LinearWeight& weight = op.weights[e];
      const bool removed = op.routing >= 0 && !place_of(units.experts, e);
      if (removed) continue;
      CutPart part;
      part.slice = static_cast<std::uint64_t>(std::max<std::int64_t>(weight.slice, 0));
      part.rows = columns.of(op.out, e);
      part.cols = columns.of(op.in, e);
      bias_rows_[weight.module] = part.rows.size();
      if (!weight.bias.empty()) add_row(weight.bias, part.rows);
      if (weight.transposed) std::swap(part.rows, part.cols);
      add_part(weight.tensor, std::move(part));
    }
  }

  // The head's norm of StableLM is numbered by head, other tensors by layer and expert.
  std::string name_of(const std::string& name) const {
    const auto own = renamed_.find(name);
    if (own == renamed_.end()) return new_name(name, model_, kept_);
    return own->second.empty() ? std::string() : new_name(own->second, model_, kept_);
  }

  void finish(const TensorInfo& info, CutList& list) {
    TensorCut cut;
    cut.source = &info;
    cut.name = name_of(info.name);
    if (cut.name.empty()) return;
    cut.dtype = info.dtype;
    cut.shape = info.shape;
    const auto found = parts_.find(info.name);
    if (found == parts_.end()) {
      list.untouched.push_back(info.name);
    } else {
      shape(cut, std::move(found->second));
    }
    list.tensors.push_back(std::move(cut));
  }

  static void shape(TensorCut& cut, std::vector<CutPart> parts) {
    const Shape& before = cut.source->shape;
    std::sort(parts.begin(), parts.end(), [](const CutPart& a, const CutPart& b) { return a.slice < b.slice; });
    cut.cols = before.back();
    cut.rows = before.size() < 2 ? 1 : before[before.size() - 2];
    cut.shape.back() = parts.front().cols.size();
    if (before.size() > 1) cut.shape[before.size() - 2] = parts.front().rows.size();
    if (before.size() > 2) cut.shape.front() = parts.size();
    const bool same = cut.shape == before;
    if (!same) cut.parts = std::move(parts);
  }

  const Checkpoint& checkpoint_;
  const ModelAxes& axes_;
  const ProgramModel& model_;
  const KeptUnits& kept_;
  std::map<std::string, std::vector<CutPart>> parts_;
  std::map<std::string, std::string> renamed_;
  std::map<std::string, std::uint64_t> bias_rows_;
};

}  // namespace

CutList make_cuts(const Checkpoint& checkpoint, const ModelAxes& axes, const ProgramModel& model, const KeptUnits& kept,
                  const std::vector<NewBias>& biases) {
  return CutMaker(checkpoint, axes, model, kept).make(biases);
}

std::string new_name(const std::string& name, const ProgramModel& model, const KeptUnits& kept) {
  const std::string layers = model.prefix + std::string(model.family.names.layers) + ".";
  const auto found = number_after(name, layers);
  if (!found || found->first >= kept.of_layer.size()) return name;
  std::optional<std::string> result = name;
  const std::string_view experts = model.family.names.experts;
  const LayerUnits& units = kept.of_layer[found->first];
  if (!experts.empty() && !units.experts.empty()) {
    const std::string prefix = model.module(found->first, experts) + ".";
    result = renumbered(name, prefix, units.experts, std::numeric_limits<std::uint64_t>::max());
  }
  if (result) result = renumbered(*result, layers, kept.layers, kept.of_layer.size());
  return result.value_or(std::string());
}

std::vector<std::byte> cut_bytes(const Checkpoint& checkpoint, const TensorCut& cut, std::size_t part,
                                 std::uint64_t first, std::uint64_t count) {
  const CutPart& from = cut.parts[part];
  const std::uint64_t size = dtype_bits(cut.dtype) / 8;
  const TensorView view = checkpoint.view(*cut.source);
  std::vector<std::byte> out(count * from.cols.size() * size);
  std::byte* to = out.data();
  for (std::uint64_t r = first; r < first + count; ++r) {
    const std::byte* row = view.bytes.data() + (from.slice * cut.rows + from.rows[r]) * cut.cols * size;
    // Neighbours are copied together.
    for (std::size_t c = 0; c < from.cols.size();) {
      std::size_t end = c + 1;
      while (end < from.cols.size() && from.cols[end] == from.cols[end - 1] + 1) ++end;
      std::memcpy(to, row + from.cols[c] * size, (end - c) * size);
      to += (end - c) * size;
      c = end;
    }
  }
  return out;
}

std::vector<std::byte> all_bytes(const Checkpoint& checkpoint, const TensorCut& cut) {
  if (cut.source == nullptr) return std::vector<std::byte>(cut.bytes());
  std::vector<std::byte> bytes;
  bytes.reserve(cut.bytes());
  if (cut.whole()) {
    const TensorView view = checkpoint.view(*cut.source);
    bytes.assign(view.bytes.begin(), view.bytes.end());
  }
  constexpr std::uint64_t kRows = 64;
  for (std::size_t p = 0; p < cut.parts.size(); ++p) {
    const std::uint64_t rows = cut.parts[p].rows.size();
    for (std::uint64_t r = 0; r < rows; r += kRows) {
      const auto some = cut_bytes(checkpoint, cut, p, r, std::min(kRows, rows - r));
      bytes.insert(bytes.end(), some.begin(), some.end());
    }
  }
  checkpoint.done_reading(checkpoint.view(*cut.source));
  return bytes;
}

CutCheckpoint::CutCheckpoint(const Checkpoint& source, const CutList& cuts, const std::string& config_json)
    : source_(source), config_(parse_model_config(config_json, source.location() / "config.json")) {
  for (const TensorCut& cut : cuts.tensors) {
    by_name_[cut.name] = tensors_.size();
    tensors_.push_back({cut.name, cut.dtype, cut.shape, cut.bytes(), 0, 0});
    copied_.push_back(cut.whole() ? cut.source : nullptr);
  }
}

const TensorInfo* CutCheckpoint::find(std::string_view name) const {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : &tensors_[at->second];
}

void CutCheckpoint::hold(const TensorCut& cut) { held_[cut.name] = all_bytes(source_, cut); }

TensorView CutCheckpoint::view(const TensorInfo& info) const {
  if (const auto held = held_.find(info.name); held != held_.end()) return {info.dtype, info.shape, held->second};
  const TensorInfo* from = copied_[by_name_.find(info.name)->second];
  if (from == nullptr) throw Error(ErrorCode::internal, "'" + info.name + "' of the smaller model has no bytes yet");
  return source_.view(*from);
}

void CutCheckpoint::done_reading(const TensorView& part) const {
  for (const auto& [name, bytes] : held_) {
    if (part.bytes.data() >= bytes.data() && part.bytes.data() < bytes.data() + bytes.size()) return;
  }
  source_.done_reading(part);
}

}  // namespace quant::structured
