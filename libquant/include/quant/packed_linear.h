// y = x W^T + bias straight from packed weights: how a compressed linear runs.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "quant/forward.h"
#include "quant/quantized_tensor.h"

namespace quant {

/// What the inputs are rounded to before they are multiplied.
enum class Activations {
  f32,   ///< not at all: sums of float32 products of the dequantized weights
  bf16,  ///< both operands to BF16, sums in float32; a single token is multiplied as f32
  int8   ///< inputs to 8 bits with a scale per token and at most 128 columns; products are exact. Where the weights are
         ///< not integers of up to 2, 4 or 8 bits (zero points included), or have a scale per 16 columns or fewer: f32
};

struct PackedOptions {
  Activations activations = Activations::f32;
  int threads = 1;
  /// How the scheme quantizes the inputs. Symmetric 8-bit integers with one scale per token, or a static one, are
  /// multiplied as integers with Activations::int8; everything else is rounded and turned back first. Columns of the
  /// inputs that reach outlier_threshold in any token of the call are multiplied as floats beside them (LLM.int8(),
  /// arXiv 2208.07339).
  const InputQuantizer* input = nullptr;
};

/// A quantized matrix in the layout that the kernels read. Immutable; usable by several threads at once.
///
/// Results are those of dequantize_row's weights up to rounding (docs/kernels.md gives the bounds). They do not depend
/// on the number of threads, nor, for 2 tokens and more, on how the tokens are divided into calls (input scales that
/// look at all tokens aside). Instruction sets differ in the last bits.
class PackedLinear {
 public:
  /// Repacks `weight`, which is not needed afterwards. `bias` [rows], or empty. `isa`: the kernels of that name (see
  /// packed_isas), the best by default, which QUANT_ISA limits. Throws Error{usage} for sizes that do not fit together
  /// or an unknown isa.
  explicit PackedLinear(const QuantizedTensor& weight, std::span<const float> bias = {}, int threads = 1,
                        std::string_view isa = {});
  ~PackedLinear();
  PackedLinear(PackedLinear&&) noexcept;
  PackedLinear& operator=(PackedLinear&&) noexcept;

  std::uint64_t rows() const;
  std::uint64_t cols() const;
  std::uint64_t bytes() const;   ///< memory of the packed weights, scales and sparse part included
  std::string_view isa() const;  ///< the kernels in use
  bool has_kernel() const;       ///< false: rows are dequantized first, since no kernel knows this codec
  bool has_int8_kernel() const;  ///< Activations::int8 multiplies integers

  /// y [tokens, rows] = x [tokens, cols] W^T + bias, row-major. Throws Error{usage} if the sizes do not fit.
  void multiply(std::span<const float> x, std::uint64_t tokens, std::span<float> y, const PackedOptions& options) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Names of the kernels that this processor runs, the plainest first: "scalar", "avx2", "avx512", "avx512_vnni" (VNNI,
/// BF16 and VBMI).
const std::vector<std::string_view>& packed_isas();

}  // namespace quant
