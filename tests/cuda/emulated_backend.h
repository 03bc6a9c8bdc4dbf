// A device that is none: the kernels' bodies on the processor, blocks, warps and lanes one after another. It refuses
// reads and writes outside of its memory only where a sanitizer sees them: each buffer is an allocation of its own.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>

#include "cuda/backend.h"
#include "cuda/tile_configs.h"
#include "emulated_warp.h"

namespace quant::test {

class EmulatedBackend : public cuda::Backend {
 public:
  explicit EmulatedBackend(bool has_dense = true) : dense_(has_dense) {}

  void* allocate(std::size_t bytes, void*) override {
    void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    std::memset(memory, 0xFB, bytes);  // not a number in any type
    ++allocated_;
    return memory;
  }
  void wait() noexcept override {}
  void free(void* memory, void*) noexcept override {
    --allocated_;
    std::free(memory);
  }
  void to_device(void* to, const void* from, std::size_t bytes, void*) override { std::memcpy(to, from, bytes); }
  void to_host(void* to, const void* from, std::size_t bytes, void*) override { std::memcpy(to, from, bytes); }

  void run(const cuda::PlainProduct& p, void*) override {
    ++plain;
    for (std::uint64_t i = 0; i < cuda::plain_warps(p) + 3; ++i) {  // blocks hold several warps: some are idle
      EmulatedWarp<cuda::PlainLane> warp;
      cuda::plain_product(warp, p, i);
    }
  }
  void run(const cuda::TileProduct& p, bool coded, void*) override {
    ++tiles;
    const Launch launch{p};
    if (coded) return cuda::choose_bits<cuda::ByteOp>(p, launch);
    switch (p.matrix.kind) {
      case cuda::TileKind::integer:
        return cuda::choose_bits<cuda::IntegerOp>(p, launch);
      case cuda::TileKind::table:
        return cuda::choose_tiles<cuda::TableOp>(p, launch);
      case cuda::TileKind::e4m3:
        return cuda::choose_tiles<cuda::Float8Op<4>>(p, launch);
      case cuda::TileKind::e5m2:
        return cuda::choose_tiles<cuda::Float8Op<5>>(p, launch);
    }
  }
  void run(const cuda::Finish& f, void*) override {
    for (std::uint64_t i = 0; i < f.tokens * f.rows + 5; ++i) cuda::finish_element(f, i);
  }
  void run(const cuda::Bf16Inputs& p, void*) override {
    for (std::uint64_t i = 0; i < p.rows.tokens * p.rows.packed + 5; ++i) cuda::bf16_input(p, i);
  }
  void run(const cuda::FloatInputs& p, void*) override {
    for (std::uint64_t i = 0; i < p.rows.tokens * p.rows.packed + 5; ++i) cuda::float_input(p, i);
  }
  void run(const cuda::CodedInputs& p, void*) override {
    EmulatedWarp<cuda::InputLane> warp;
    for (std::uint64_t i = 0; p.per_token && i < p.rows.tokens * p.segments + 3; ++i) cuda::largest_inputs(warp, p, i);
    for (std::uint64_t i = 0; i < p.rows.tokens * p.segments + 3; ++i) cuda::code_inputs(warp, p, i);
  }
  void run(const cuda::DenseFill& f, void*) override {
    for (std::uint64_t i = 0; i < f.rows * f.columns + 5; ++i) cuda::fill_dense(f, i);
  }
  bool multiplies_dense() const override { return dense_; }
  void run(const cuda::DenseProduct& p, void*) override {
    ++dense;
    for (std::uint64_t t = 0; t < p.tokens; ++t) {
      for (std::uint64_t r = 0; r < p.rows; ++r) {
        double sum = 0;
        for (std::uint64_t c = 0; c < p.columns; ++c) {
          sum += element(p.weights, r * p.columns + c, p.bf16) * element(p.x, t * p.columns + c, p.bf16);
        }
        p.y[t * p.stride + r] = static_cast<float>(sum);
      }
    }
  }

  int allocated() const { return allocated_; }
  int plain = 0, tiles = 0, dense = 0;  ///< kernels that ran

 private:
  struct Launch {
    const cuda::TileProduct& product;

    template <class Config>
    void run() const {
      for (std::uint32_t split = 0; split < product.splits; ++split) {
        for (std::uint64_t i = 0; i < cuda::tile_blocks<Config>(product); ++i) run_block<Config>(i, split);
      }
    }

    template <class Config>
    void run_block(std::uint64_t index, std::uint32_t split) const {
      using Warp = EmulatedWarp<cuda::TileLane<Config>>;
      const cuda::TilePlace place = cuda::tile_place<Config>(product, index, split);
      const auto warps = std::make_unique<Warp[]>(cuda::kTileWarps);
      const auto shared = std::make_unique<cuda::TileShared<Config>>();
      for (unsigned w = 0; w < cuda::kTileWarps; ++w) {
        cuda::TileWorker<Config, Warp>(warps[w], product, place).run(w);
      }
      for (unsigned s = 0; s < Config::kStrips; ++s) {
        for (unsigned i = 0; i < cuda::kTileThreads; ++i) {
          cuda::store_sums<Config>(*shared, warps[i / 32].lane(i % 32), i / 32, i % 32, s);
        }
        for (unsigned i = 0; i < cuda::kTileThreads; ++i) cuda::write_sums<Config>(*shared, product, place, s, i);
      }
    }
  };

  static double element(const void* values, std::uint64_t index, bool bf16) {
    if (!bf16) return static_cast<double>(static_cast<const float*>(values)[index]);
    return static_cast<double>(cuda::bf16_to_float(static_cast<const std::uint16_t*>(values)[index]));
  }

  bool dense_;
  int allocated_ = 0;
};

}  // namespace quant::test
