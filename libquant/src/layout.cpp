// What layouts without scales for a cache of keys and values say.
#include "quant/layout.h"

#include "quant/error.h"

namespace quant {
namespace {

std::string no_place(const Layout& layout) {
  return "kv_cache_scheme: the layout " + std::string(layout.name()) + " has no place for scales of a cache";
}

}  // namespace

std::optional<std::string> Layout::unsupported_kv(const QuantArgs&) const { return no_place(*this); }

std::vector<StoredTensor> Layout::stored_kv(const QuantArgs&, const std::string&, DType) const {
  throw Error(ErrorCode::unsupported, no_place(*this));
}

void Layout::write_kv(const QuantArgs&, const std::string&, DType, const KvScales&, StoredBytesSink&) const {
  throw Error(ErrorCode::unsupported, no_place(*this));
}

std::string Layout::config_json_kv(const ModelConfig&, const std::vector<SchemeGroup>&, const std::vector<std::string>&,
                                   const QuantArgs&) const {
  throw Error(ErrorCode::unsupported, no_place(*this));
}

std::vector<StoredKv> Layout::find_kv(const Checkpoint&) const { return {}; }

}  // namespace quant
