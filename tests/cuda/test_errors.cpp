// Wrong use, with and without a device.
#include "packed/packed_cases.h"
#include "quant/cuda_linear.h"
#include "quant/error.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

TEST_CASE("wrong use of a device is named", "[cuda]") {
  const QuantizedTensor tensor = make_tensor(integer_case(4, Strategy::channel, 0, true), 3, 8, 1);
  CHECK_THROWS_AS(CudaLinear(tensor, std::vector<float>(2)), Error);
  CHECK_THROWS_WITH(CudaLinear(tensor, {}, {.kernels = "fast"}), Catch::Contains("'fast'"));
  if (cuda_devices().empty()) {
    CHECK_THROWS_WITH(CudaLinear(tensor), Catch::Contains(has_cuda_kernels() ? "no CUDA device" : "no CUDA kernels"));
    return;
  }
  CHECK_THROWS_WITH(CudaLinear(tensor, {}, {.device = 99}), Catch::Contains("99"));
  const CudaLinear linear(tensor);
  std::vector<float> y(3);
  CHECK_THROWS_AS(linear.multiply(std::vector<float>(7), 1, y, {}), Error);
}
