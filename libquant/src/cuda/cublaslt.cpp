#include "cuda/cublaslt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <map>
#include <mutex>
#include <string>
#include <tuple>

namespace quant::cuda {
namespace {

// The functions that are used, under their own names.
struct Functions {
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;

  bool load(void* library) {
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      return function != nullptr;
    };
    return find(create, "cublasLtCreate") && find(destroy, "cublasLtDestroy") &&
           find(desc_create, "cublasLtMatmulDescCreate") && find(desc_destroy, "cublasLtMatmulDescDestroy") &&
           find(desc_set, "cublasLtMatmulDescSetAttribute") && find(layout_create, "cublasLtMatrixLayoutCreate") &&
           find(layout_destroy, "cublasLtMatrixLayoutDestroy") &&
           find(preference_create, "cublasLtMatmulPreferenceCreate") &&
           find(preference_destroy, "cublasLtMatmulPreferenceDestroy") &&
           find(preference_set, "cublasLtMatmulPreferenceSetAttribute") &&
           find(heuristic, "cublasLtMatmulAlgoGetHeuristic") && find(matmul, "cublasLtMatmul");
  }
};

// What describes one product: column-major for the library, so y^T [rows, tokens] = w [rows, columns] x^T.
class Plan {
 public:
  Plan(const Functions& f, cublasLtHandle_t handle, const DenseProduct& p, DenseType type, std::size_t workspace)
      : f_(f) {
    const cudaDataType_t in = type == DenseType::f32 ? CUDA_R_32F : type == DenseType::bf16 ? CUDA_R_16BF : CUDA_R_16F;
    const cudaDataType_t out = type == DenseType::f16 ? CUDA_R_16F : CUDA_R_32F;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const auto length = static_cast<std::int64_t>(p.columns), stride = static_cast<std::int64_t>(p.stride);
    bool good = f.desc_create(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS;
    good =
        good && f.desc_set(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed) == CUBLAS_STATUS_SUCCESS;
    good = good && f.layout_create(&w, in, p.columns, p.rows, length) == CUBLAS_STATUS_SUCCESS;
    good = good && f.layout_create(&x, in, p.columns, p.tokens, length) == CUBLAS_STATUS_SUCCESS;
    good = good && f.layout_create(&y, out, p.rows, p.tokens, stride) == CUBLAS_STATUS_SUCCESS;
    good = good && f.preference_create(&preference) == CUBLAS_STATUS_SUCCESS;
    good = good && f.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                    sizeof workspace) == CUBLAS_STATUS_SUCCESS;
    const std::uint32_t aligned = 16;  // y may begin at any row that is a multiple of 64
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      good = good && f.preference_set(preference, attribute, &aligned, sizeof aligned) == CUBLAS_STATUS_SUCCESS;
    }
    int count = 0;
    good = good && f.heuristic(handle, desc, w, x, y, y, preference, 1, &algorithm, &count) == CUBLAS_STATUS_SUCCESS;
    usable = good && count > 0;
  }
  ~Plan() {
    if (preference != nullptr) f_.preference_destroy(preference);
    for (const cublasLtMatrixLayout_t layout : {w, x, y}) {
      if (layout != nullptr) f_.layout_destroy(layout);
    }
    if (desc != nullptr) f_.desc_destroy(desc);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  cublasLtMatmulHeuristicResult_t algorithm{};
  bool usable = false;

 private:
  const Functions& f_;
};

class CublasLt : public DenseLibrary {
 public:
  CublasLt(void* library, const Functions& functions) : library_(library), f_(functions) {}
  ~CublasLt() override {
    plans_.clear();
    if (handle_ != nullptr) f_.destroy(handle_);
    dlclose(library_);
  }
  bool start() { return f_.create(&handle_) == CUBLAS_STATUS_SUCCESS; }

  const char* multiply(const DenseProduct& p, DenseType type, void* workspace, std::size_t workspace_bytes,
                       void* stream) override {
    const std::shared_ptr<const Plan> plan = plan_of(p, type, workspace_bytes);
    if (!plan->usable) return "cuBLASLt has no product of this shape";
    const float one = 1.0F, none = 0.0F;
    const cublasStatus_t status =
        f_.matmul(handle_, plan->desc, &one, p.weights, plan->w, p.x, plan->x, &none, p.y, plan->y, p.y, plan->y,
                  &plan->algorithm.algo, workspace, workspace_bytes, static_cast<cudaStream_t>(stream));
    return status == CUBLAS_STATUS_SUCCESS ? nullptr : "cuBLASLt failed";
  }

 private:
  using Key = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t, DenseType>;

  // Kept: the search takes longer than small products. Models have few shapes; where there are many, they are
  // forgotten.
  std::shared_ptr<const Plan> plan_of(const DenseProduct& p, DenseType type, std::size_t workspace) {
    constexpr std::size_t kMostPlans = 4096;
    const std::lock_guard lock(mutex_);
    if (plans_.size() >= kMostPlans) plans_.clear();  // those in use live on
    auto& plan = plans_[Key{p.rows, p.tokens, p.columns, p.stride, type}];
    if (!plan) plan = std::make_shared<const Plan>(f_, handle_, p, type, workspace);
    return plan;
  }

  void* library_;
  Functions f_;
  cublasLtHandle_t handle_ = nullptr;
  std::mutex mutex_;
  std::map<Key, std::shared_ptr<const Plan>> plans_;
};

}  // namespace

std::unique_ptr<DenseLibrary> DenseLibrary::open() {
  const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return nullptr;
  Functions functions;
  if (!functions.load(library)) {
    dlclose(library);
    return nullptr;
  }
  auto result = std::make_unique<CublasLt>(library, functions);
  if (!result->start()) return nullptr;
  return result;
}

}  // namespace quant::cuda
