#include "kernels/packed/packed_dispatch.h"

#include <string>

#include "quant/error.h"
#include "quant/kernels.h"

namespace quant::cpu {

const std::vector<const PackedTable*>& packed_tables() {
  static const std::vector<const PackedTable*> tables = [] {
    std::vector<const PackedTable*> list{&kPackedScalar};
#if defined(__x86_64__)
    const std::string_view best = available_kernels().back()->isa;
    if (best != "scalar" && __builtin_cpu_supports("fma")) list.push_back(&kPackedAvx2);
    if (best == "avx512") {
      list.push_back(&kPackedAvx512);
      if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16") &&
          __builtin_cpu_supports("avx512vbmi")) {
        list.push_back(&kPackedAvx512Vnni);
      }
    }
#endif
    return list;
  }();
  return tables;
}

const PackedTable& packed_table(std::string_view isa) {
  // "avx512" and what begins like it belong together where QUANT_ISA asks; an exact name is that table alone.
  const std::string_view limit = isa.empty() ? std::string_view(kernels().isa) : isa;
  const PackedTable* found = nullptr;
  std::string names;
  for (const PackedTable* table : packed_tables()) {
    const std::string_view name = table->isa;
    if (name == limit || (isa.empty() && name.starts_with(limit))) found = table;
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  if (found != nullptr) return *found;
  if (isa.empty()) return *packed_tables().front();
  throw Error(ErrorCode::usage,
              "there are no packed kernels '" + std::string(isa) + "' on this processor or in this build",
              "use one of: " + names);
}

}  // namespace quant::cpu
