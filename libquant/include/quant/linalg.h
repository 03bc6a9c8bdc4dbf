// Products, Gram matrices and triangular factors of float matrices, near the machine's limit and the same for any
// number of threads. oneDNN and Eigen stay behind these signatures.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace quant {

/// Operands of big products. Sums are float32 in both cases.
enum class ProductType {
  f32,
  bf16  ///< operands rounded to BF16
};
/// bf16 where the processor multiplies BF16 natively, else f32.
ProductType fastest_product_type();

/// A weight W [rows, cols] = [out_features, in_features], brought once into the form that products read fastest.
/// Immutable; usable by several threads at once.
class Product {
 public:
  /// Copies `weight` (row-major). `threads`: for the conversion.
  Product(std::span<const float> weight, std::uint64_t rows, std::uint64_t cols, ProductType type, int threads);
  ~Product();
  Product(Product&&) noexcept;
  Product& operator=(Product&&) noexcept;

  std::uint64_t rows() const;
  std::uint64_t cols() const;
  std::uint64_t bytes() const;  ///< memory that the prepared weight takes

  /// y [tokens, rows] = x [tokens, cols] W^T, both row-major and dense. Same bits for any `threads`, and for any
  /// division of the tokens into calls of at least 2 tokens.
  void run(std::span<const float> x, std::uint64_t tokens, std::span<float> y, int threads) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Accumulates X^T X (and products of other matrices with X) over calls.
class GramAccumulator {
 public:
  /// `cross`: accumulates (A - X)^T X of a second matrix A as well. `outputs` > 0: and (R - S)^T X of two matrices with
  /// that many columns. Throws Error{usage} for no columns or more than 2^20 of x or r.
  GramAccumulator(std::uint64_t cols, ProductType type, bool cross = false, std::uint64_t outputs = 0);
  ~GramAccumulator();
  GramAccumulator(GramAccumulator&&) noexcept;
  GramAccumulator& operator=(GramAccumulator&&) noexcept;

  /// Bytes that such an accumulator takes beside the matrices: rows that wait for their turn, and their copies as
  /// operands of products.
  static std::uint64_t waiting_bytes(std::uint64_t cols, ProductType type, bool cross = false,
                                     std::uint64_t outputs = 0);

  std::uint64_t cols() const;
  std::uint64_t rows() const;  ///< seen so far
  /// Adds the rows of x [count, cols]. `a` [count, cols]: the second matrix, if cross. Same bits for any `threads`.
  void add(std::span<const float> x, std::span<const float> a, std::uint64_t count, int threads);
  /// The same with r and s [count, outputs].
  void add(std::span<const float> x, std::span<const float> a, std::span<const float> r, std::span<const float> s,
           std::uint64_t count, int threads);
  /// Moves out the full symmetric matrix X^T X / rows [cols, cols]; zeros if nothing was added.
  std::vector<float> take_gram(int threads);
  /// Moves out (A - X)^T X / rows [cols, cols].
  std::vector<float> take_cross(int threads);
  /// Moves out (R - S)^T X / rows [outputs, cols].
  std::vector<float> take_outputs(int threads);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// In place: the upper triangular U with H^-1 = U^T U, for a symmetric positive definite `h` [n, n], row-major; what
/// lies below the diagonal is zeroed. False (h unspecified) if H is not numerically positive definite.
bool inverse_upper_factor(std::span<float> h, std::uint64_t n, int threads);

/// In place: the lower triangular L with H = L L^T; above the diagonal zeroed. False if not positive definite.
bool cholesky_lower(std::span<float> h, std::uint64_t n, int threads);

/// c [m, n] = beta c + alpha a [m, k] b, with b [k, n], or b^T where b is [n, k] (transpose_b). Row-major with leading
/// dimensions. Same bits for any `threads`.
struct MatrixRef {
  float* data = nullptr;
  std::uint64_t ld = 0;
};
struct ConstMatrixRef {
  const float* data = nullptr;
  std::uint64_t ld = 0;
};
void gemm(std::uint64_t m, std::uint64_t n, std::uint64_t k, float alpha, ConstMatrixRef a, ConstMatrixRef b,
          bool transpose_b, float beta, MatrixRef c, int threads);

/// tr(D H D^T) for D [rows, n] and symmetric H [n, n]: the squared output error, per row of D, in float64.
/// out.size() == rows.
void quadratic_forms(std::span<const float> d, std::uint64_t rows, std::span<const float> h, std::uint64_t n,
                     std::span<double> out, int threads);

}  // namespace quant
