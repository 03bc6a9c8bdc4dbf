#include "cuda/cuda_backend.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <map>
#include <mutex>

#include "cuda/devices.h"
#include "cuda/launch.h"
#include "quant/error.h"

namespace quant::cuda {
namespace {

constexpr std::size_t kWorkspace = std::size_t{32} << 20;
// The pool keeps what is freed. The limit counts memory in use as well, weights too, so that any number would be
// reached by large models, and every product would have its memory mapped anew.
constexpr std::uint64_t kKeptMemory = UINT64_MAX;

void check(int code, std::string_view what) {
  const auto error = static_cast<cudaError_t>(code);
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();  // launches are judged by it: the next one must not find this error
  const bool memory = error == cudaErrorMemoryAllocation;
  throw Error(ErrorCode::io, fmt::format("CUDA: {} failed: {}.", what, cudaGetErrorString(error)),
              memory ? "use a smaller model, or another device" : "");
}

cudaStream_t stream_of(void* stream) { return static_cast<cudaStream_t>(stream); }

// The device that a thread works on, for as long as this lives.
class Current {
 public:
  explicit Current(int device) {
    if (cudaGetDevice(&before_) == cudaSuccess && before_ == device) {
      before_ = -1;
      return;
    }
    check(cudaSetDevice(device), "choosing a device");
  }
  ~Current() {
    if (before_ >= 0) (void)cudaSetDevice(before_);
  }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  int before_ = -1;
};

}  // namespace

CudaBackend::CudaBackend(int device) : device_(device) {
  const Current current(device);
  cudaMemPoolProps props{};
  props.allocType = cudaMemAllocationTypePinned;
  props.location.type = cudaMemLocationTypeDevice;
  props.location.id = device;
  cudaMemPool_t pool = nullptr;
  check(cudaMemPoolCreate(&pool, &props), "making a memory pool");
  pool_ = pool;
  std::uint64_t kept = kKeptMemory;
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept), "setting up a memory pool");
  dense_ = DenseLibrary::open();
}

void* CudaBackend::allocate(std::size_t bytes, void* stream) {
  const Current current(device_);
  void* memory = nullptr;
  check(cudaMallocFromPoolAsync(&memory, bytes, static_cast<cudaMemPool_t>(pool_), stream_of(stream)),
        fmt::format("allocating {} bytes", bytes));
  return memory;
}

// As Current, for what must not throw. The default stream is that of the device in use, which may be another.
template <class Action>
void CudaBackend::on_device(const Action& action) noexcept {
  int before = -1;
  if (cudaGetDevice(&before) != cudaSuccess) before = -1;
  if (before != device_) (void)cudaSetDevice(device_);
  action();
  if (before >= 0 && before != device_) (void)cudaSetDevice(before);
  (void)cudaGetLastError();  // at the end of the process the driver may be gone
}

void CudaBackend::free(void* memory, void* stream) noexcept {
  on_device([&] { (void)cudaFreeAsync(memory, stream_of(stream)); });
}

void CudaBackend::wait() noexcept {
  on_device([] { (void)cudaDeviceSynchronize(); });
}

void CudaBackend::to_device(void* to, const void* from, std::size_t bytes, void* stream) {
  const Current current(device_);
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_of(stream)), "copying to the device");
  check(cudaStreamSynchronize(stream_of(stream)), "copying to the device");  // `from` may go away now
}

void CudaBackend::to_host(void* to, const void* from, std::size_t bytes, void* stream) {
  const Current current(device_);
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_of(stream)), "copying from the device");
  check(cudaStreamSynchronize(stream_of(stream)), "a kernel, or copying from the device,");
}

void CudaBackend::run(const PlainProduct& product, void* stream) {
  const Current current(device_);
  check(launch(product, stream), "the reference product");
}

void CudaBackend::run(const TileProduct& product, bool coded, void* stream) {
  const Current current(device_);
  const bool integers = product.matrix.kind == TileKind::integer;
  check(coded      ? launch_byte_tiles(product, stream)
        : integers ? launch_integer_tiles(product, stream)
                   : launch_float_tiles(product, stream),
        "the product of tiles");
}

void CudaBackend::run(const Finish& finish, void* stream) {
  const Current current(device_);
  check(launch(finish, stream), "the last step of a product");
}

void CudaBackend::run(const Bf16Inputs& inputs, void* stream) {
  const Current current(device_);
  check(launch(inputs, stream), "rounding inputs");
}

void CudaBackend::run(const FloatInputs& inputs, void* stream) {
  const Current current(device_);
  check(launch(inputs, stream), "ordering inputs");
}

void CudaBackend::run(const CodedInputs& inputs, void* stream) {
  const Current current(device_);
  check(launch(inputs, stream), "quantizing inputs");
}

void CudaBackend::run(const DenseFill& fill, void* stream) {
  const Current current(device_);
  check(launch(fill, stream), "dequantizing weights");
}

void CudaBackend::run(const DenseProduct& product, void* stream) {
  multiply_dense(product, product.bf16 ? DenseType::bf16 : DenseType::f32, stream);
}

void CudaBackend::multiply_dense(const DenseProduct& product, DenseType type, void* stream) {
  const Current current(device_);
  const DeviceBuffer workspace(*this, kWorkspace, stream);
  const char* message = dense_->multiply(product, type, workspace.as<void>(), workspace.size(), stream);
  if (message == nullptr) return;
  throw Error(ErrorCode::io, fmt::format("{}: [{}, {}] times [{}, {}].", message, product.tokens, product.columns,
                                         product.columns, product.rows));
}

void CudaBackend::copy_on_device(void* to, const void* from, std::size_t bytes, void* stream) {
  const Current current(device_);
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_of(stream)), "copying on the device");
}

double CudaBackend::seconds_of(const std::function<void()>& work) {
  const Current current(device_);
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "making an event");
  check(cudaEventCreate(&end), "making an event");
  check(cudaEventRecord(begin, nullptr), "recording an event");
  work();
  check(cudaEventRecord(end, nullptr), "recording an event");
  check(cudaEventSynchronize(end), "the work that is measured");
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, begin, end), "reading an event");
  (void)cudaEventDestroy(begin);
  (void)cudaEventDestroy(end);
  return static_cast<double>(milliseconds) * 1e-3;
}

bool has_kernels() { return true; }

std::string device_trouble() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  (void)cudaGetLastError();
  return error == cudaSuccess || error == cudaErrorNoDevice ? "" : cudaGetErrorString(error);
}

std::vector<CudaDevice> devices() {
  int count = 0;
  if (!device_trouble().empty() || cudaGetDeviceCount(&count) != cudaSuccess) return {};
  std::vector<CudaDevice> found;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) {
      (void)cudaGetLastError();
      continue;
    }
    if (properties.major < 8) continue;
    found.push_back({i, properties.name, properties.totalGlobalMem, properties.major, properties.minor});
  }
  return found;
}

std::shared_ptr<Backend> backend_of(int device) {
  static std::mutex mutex;
  // Never destroyed: at the end of the process the driver may be gone before it.
  static auto* backends = new std::map<int, std::shared_ptr<Backend>>;
  const std::lock_guard lock(mutex);
  std::shared_ptr<Backend>& backend = (*backends)[device];
  if (!backend) backend = std::make_shared<CudaBackend>(device);
  return backend;
}

}  // namespace quant::cuda
