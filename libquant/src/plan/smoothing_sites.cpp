#include "plan/smoothing_sites.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <set>

namespace quant {
namespace {

constexpr std::size_t kNone = static_cast<std::size_t>(-1);

// Who writes and who reads each value.
struct Uses {
  std::vector<std::size_t> writer;
  std::vector<std::vector<std::size_t>> readers;

  explicit Uses(const Program& program) : writer(program.values.size(), kNone), readers(program.values.size()) {
    for (std::size_t i = 0; i < program.ops.size(); ++i) {
      writer[index(output_of(program.ops[i]))] = i;
      for (const ValueId id : inputs_of(program.ops[i])) {
        if (id >= 0) readers[index(id)].push_back(i);
      }
    }
  }
  static std::size_t index(ValueId id) { return static_cast<std::size_t>(id); }
};

// A linear whose rows are the columns of a value, one by one.
struct Source {
  std::size_t op = 0;
  std::vector<std::uint32_t> rows;
};

class Finder {
 public:
  explicit Finder(const Program& program) : program_(program), uses_(program) {}

  std::vector<SmoothingSite> find() {
    std::set<ValueId> seen;
    for (std::size_t i = 0; i < program_.ops.size(); ++i) {
      const auto* linear = std::get_if<LinearOp>(&program_.ops[i]);
      if (linear == nullptr) continue;
      const ValueId value = origin(linear->in);
      if (seen.insert(value).second) add_sites(value);
    }
    return std::move(sites_);
  }

 private:
  // The value before tokens were copied for experts.
  ValueId origin(ValueId value) const {
    const std::size_t writer = uses_.writer[Uses::index(value)];
    if (writer == kNone) return value;
    const auto* gather = std::get_if<GatherOp>(&program_.ops[writer]);
    return gather == nullptr ? value : gather->in;
  }

  // Every linear that reads the value, or nothing if anything else does.
  std::optional<std::vector<std::size_t>> reading_linears(ValueId value) const {
    if (value == program_.output) return std::nullopt;
    std::vector<std::size_t> linears;
    for (const std::size_t reader : uses_.readers[Uses::index(value)]) {
      const Op& op = program_.ops[reader];
      if (std::holds_alternative<LinearOp>(op)) {
        if (std::get<LinearOp>(op).in != value) return std::nullopt;
        linears.push_back(reader);
      } else if (const auto* gather = std::get_if<GatherOp>(&op); gather != nullptr && gather->in == value) {
        const auto inner = reading_linears(gather->out);
        if (!inner) return std::nullopt;
        linears.insert(linears.end(), inner->begin(), inner->end());
      } else {
        return std::nullopt;
      }
    }
    return linears;
  }

  // True if only `reader` reads the value, or other slices of other columns do.
  bool read_by_this_only(ValueId value, std::size_t reader) const {
    if (value == program_.output) return false;
    const auto& readers = uses_.readers[Uses::index(value)];
    if (readers.size() == 1) return readers.front() == reader;
    std::set<std::uint64_t> taken;
    for (const std::size_t other : readers) {
      const auto* slice = std::get_if<SliceOp>(&program_.ops[other]);
      if (slice == nullptr) return false;
      for (std::uint64_t i = 0; i < slice->repeat * slice->width; ++i) {
        if (!taken.insert(slice_column(*slice, i)).second) return false;
      }
    }
    return true;
  }

  static std::uint64_t slice_column(const SliceOp& slice, std::uint64_t column) {
    return slice.first + column / slice.width * slice.stride + column % slice.width;
  }

  // Follows slices back to a linear.
  std::optional<Source> source_of(ValueId value, std::size_t reader) const {
    if (!read_by_this_only(value, reader)) return std::nullopt;
    const std::size_t writer = uses_.writer[Uses::index(value)];
    if (writer == kNone) return std::nullopt;
    if (std::holds_alternative<LinearOp>(program_.ops[writer])) {
      Source source{writer, std::vector<std::uint32_t>(program_.values[Uses::index(value)].width)};
      std::iota(source.rows.begin(), source.rows.end(), 0U);
      return source;
    }
    const auto* slice = std::get_if<SliceOp>(&program_.ops[writer]);
    if (slice == nullptr) return std::nullopt;
    const auto inner = source_of(slice->in, writer);
    if (!inner) return std::nullopt;
    Source source{inner->op, {}};
    for (std::uint64_t c = 0; c < slice->width * slice->repeat; ++c) {
      source.rows.push_back(inner->rows[slice_column(*slice, c)]);
    }
    return source;
  }

  void add_sites(ValueId value) {
    const std::size_t writer = uses_.writer[Uses::index(value)];
    if (writer == kNone) return;
    const auto readers = reading_linears(value);
    if (!readers) return;
    const Op& op = program_.ops[writer];
    if (const auto* norm = std::get_if<NormOp>(&op)) {
      if (norm->group == 0 && !norm->weight.empty()) add_norm(*norm, writer, *readers);
    } else if (const auto* attention = std::get_if<AttentionOp>(&op)) {
      add_linear(ProducerKind::value, value, value_source(*attention, writer), *readers);
    } else if (const auto* product = std::get_if<MultiplyOp>(&op)) {
      add_linear(ProducerKind::gated_product, value, product_source(*product, writer), *readers);
    } else if (const auto* activation = std::get_if<ActivationOp>(&op)) {
      if (activation->function == Activation::relu) {
        add_linear(ProducerKind::relu, value, source_of(activation->in, writer), *readers);
      }
    } else if (std::holds_alternative<LinearOp>(op)) {
      Source source{writer, std::vector<std::uint32_t>(program_.values[Uses::index(value)].width)};
      std::iota(source.rows.begin(), source.rows.end(), 0U);
      add_linear(ProducerKind::linear, value, source, *readers);
    }
  }

  // Query heads of a group read one value head.
  std::optional<Source> value_source(const AttentionOp& attention, std::size_t op) const {
    const auto values = source_of(attention.v, op);
    if (!values) return std::nullopt;
    Source source{values->op, {}};
    const std::uint64_t shared = attention.heads / attention.kv_heads;
    for (std::uint64_t c = 0; c < attention.heads * attention.value_dim; ++c) {
      const std::uint64_t head = c / attention.value_dim / shared;
      source.rows.push_back(values->rows[head * attention.value_dim + c % attention.value_dim]);
    }
    return source;
  }

  // The factor that comes from a linear as it is; the other one went through the activation.
  std::optional<Source> product_source(const MultiplyOp& product, std::size_t op) const {
    if (product.a == product.b || program_.values[Uses::index(product.b)].width == 1) return std::nullopt;
    if (auto source = source_of(product.b, op)) return source;
    return source_of(product.a, op);
  }

  void add_norm(const NormOp& norm, std::size_t op, const std::vector<std::size_t>& readers) {
    SmoothingSite site;
    site.kind = ProducerKind::norm;
    site.value = norm.out;
    site.smooth_layer = norm.module;
    site.norm = op;
    for (const std::size_t reader : readers) {
      for (std::size_t w = 0; w < std::get<LinearOp>(program_.ops[reader]).weights.size(); ++w) {
        site.readers.push_back({reader, w});
      }
    }
    sites_.push_back(std::move(site));
  }

  void add_linear(ProducerKind kind, ValueId value, const std::optional<Source>& source,
                  const std::vector<std::size_t>& readers) {
    if (!source) return;
    const auto& producer = std::get<LinearOp>(program_.ops[source->op]);
    for (const std::size_t reader : readers) {
      const auto& linear = std::get<LinearOp>(program_.ops[reader]);
      // Experts feed experts of the same number, or nothing can be said.
      if (linear.weights.size() != producer.weights.size() || linear.routing != producer.routing) return;
    }
    for (std::size_t w = 0; w < producer.weights.size(); ++w) {
      SmoothingSite site;
      site.kind = kind;
      site.value = value;
      site.expert = producer.weights.size() > 1 ? static_cast<int>(w) : -1;
      site.smooth_layer = producer.weights[w].module;
      site.linear = {source->op, w};
      site.rows = source->rows;
      for (const std::size_t reader : readers) site.readers.push_back({reader, w});
      sites_.push_back(std::move(site));
    }
  }

  const Program& program_;
  Uses uses_;
  std::vector<SmoothingSite> sites_;
};

}  // namespace

std::vector<SmoothingSite> find_smoothing_sites(const Program& program) { return Finder(program).find(); }

}  // namespace quant
