// Bytes, errors and speed of the block encoders beside those of ggml's own, loaded from libggml-base.so. See README.md.
#include <dlfcn.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "quant/block_encode.h"
#include "quant/dtype.h"
#include "quant/open.h"

namespace {

using namespace quant;

using QuantizeChunk = std::size_t (*)(int, const float*, void*, std::int64_t, std::int64_t, std::int64_t, const float*);

struct Matrix {
  std::vector<float> weights;
  std::uint64_t cols = 0;
  std::vector<float> importance;
};

enum class Kind { normal, heavy, sparse, tiny, constant, coarse, positive };

float weight_of(Kind kind, std::mt19937& random) {
  std::normal_distribution<float> normal(0, 0.02F);
  const float w = normal(random);
  switch (kind) {
    case Kind::normal:
      return w;
    case Kind::heavy:
      return 0.0004F * w / (std::fabs(normal(random)) + 1e-4F);
    case Kind::sparse:
      return random() % 8 == 0 ? w : 0.0F;
    case Kind::tiny:
      return w * (random() % 64 == 0 ? 1e-3F : 1e-8F);
    case Kind::constant:
      return random() % 512 < 500 ? -0.25F : 0.5F;
    case Kind::coarse:
      return static_cast<float>(static_cast<int>(random() % 7) - 3) / 8;
    case Kind::positive:
      return std::fabs(w) + 0.01F;
  }
  return w;
}

// The importance of columns differs by two orders of magnitude, as inputs of real models do.
Matrix random_matrix(Kind kind, std::uint64_t rows, std::uint64_t cols) {
  std::mt19937 random(1);
  std::lognormal_distribution<float> spread(0, 1.2F);
  Matrix m{std::vector<float>(rows * cols), cols, std::vector<float>(cols)};
  for (float& w : m.weights) w = weight_of(kind, random);
  for (float& i : m.importance) i = spread(random);
  return m;
}

double error_of(BlockType type, const Matrix& m, const std::vector<std::byte>& bytes, bool weighted) {
  std::vector<float> values(m.weights.size());
  decode_blocks(type, bytes, values);
  double error = 0, total = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double w = weighted ? m.importance[i % m.cols] : 1.0, x = m.weights[i];
    const double e = x - values[i];
    error += w * e * e;
    total += w * x * x;
  }
  return std::sqrt(error / total);
}

double seconds_of(const std::function<void()>& work) {
  double best = 1e30;
  for (int i = 0; i < 5; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    if (best > 0.7) break;
  }
  return best;
}

void report(QuantizeChunk chunk, BlockType type, const Matrix& m, bool weighted, bool time) {
  const std::uint64_t rows = m.weights.size() / m.cols;
  const std::span<const float> importance = weighted ? std::span<const float>(m.importance) : std::span<const float>{};
  std::vector<std::byte> theirs(block_bytes(type, m.weights.size())), same(theirs.size()), ours(theirs.size());
  const auto run_theirs = [&] {
    chunk(static_cast<int>(type), m.weights.data(), theirs.data(), 0, static_cast<std::int64_t>(rows),
          static_cast<std::int64_t>(m.cols), weighted ? m.importance.data() : nullptr);
  };
  const auto run = [&](BlockEncoder encoder, std::vector<std::byte>& out) {
    encode_blocks(type, m.weights, m.cols, importance, encoder, out);
  };
  const double million = static_cast<double>(m.weights.size()) / 1e6;
  const double t0 = time ? seconds_of(run_theirs) : (run_theirs(), 1.0);
  const double t1 =
      time ? seconds_of([&] { run(BlockEncoder::reference, same); }) : (run(BlockEncoder::reference, same), 1.0);
  const double t2 =
      time ? seconds_of([&] { run(BlockEncoder::search, ours); }) : (run(BlockEncoder::search, ours), 1.0);
  std::size_t different = 0;
  for (std::size_t i = 0; i < same.size(); ++i) different += same[i] != theirs[i] ? 1 : 0;
  const double e0 = error_of(type, m, theirs, weighted), e2 = error_of(type, m, ours, weighted);
  std::printf("%-7s %-4s  bytes that differ %6zu  error %.6f -> %.6f (%+.2f %%)",
              std::string(block_format(type).name).c_str(), weighted ? "imp" : "", different, e0, e2,
              100 * (e2 / e0 - 1));
  if (time) {
    std::printf("  Mw/s %7.1f | reference %7.1f (%.1fx) | search %7.1f (%.1fx)", million / t0, million / t1, t0 / t1,
                million / t2, t0 / t2);
  }
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: block_encoders libggml-base.so [rows] [time|notime] [type|all] [kind 0-6]\n");
    return 2;
  }
  void* library = dlopen(argv[1], RTLD_NOW);
  if (library == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  const auto chunk = reinterpret_cast<QuantizeChunk>(dlsym(library, "ggml_quantize_chunk"));
  const std::uint64_t rows = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 256;
  const bool time = argc <= 3 || std::string(argv[3]) != "notime";
  const Kind kind = argc > 5 ? static_cast<Kind>(std::atoi(argv[5])) : Kind::normal;
  const Matrix m = random_matrix(kind, rows, 4096);
  for (const BlockFormat& format : block_formats()) {
    if (format.weights == 1 || !can_encode(format.type)) continue;
    if (argc > 4 && std::string(argv[4]) != "all" && format.name != argv[4]) continue;
    report(chunk, format.type, m, false, time);
    report(chunk, format.type, m, true, time);
  }
  return 0;
}
