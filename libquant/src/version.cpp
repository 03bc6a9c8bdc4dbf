#include "quant/version.h"

namespace quant {

std::string_view version() { return QUANT_VERSION; }

}  // namespace quant
