#include "hdf5_tensor_types.h"

namespace quant::hdf5 {
namespace {

// IEEE half precision, which HDF5 1.10 has no name for. Never closed: HDF5 does that at the program's end.
hid_t half_type() {
  static const hid_t type = [] {
    const hid_t half = H5Tcopy(H5T_IEEE_F32LE);
    const bool made = half >= 0 && H5Tset_fields(half, 15, 10, 5, 0, 10) >= 0 && H5Tset_size(half, 2) >= 0 &&
                      H5Tset_ebias(half, 15) >= 0;
    return made ? half : hid_t{-1};
  }();
  return type;
}

}  // namespace

ElementType element_type(DType type) {
  const std::uint64_t bits = dtype_bits(type);
  switch (type) {
    case DType::F64:
      return {H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, 8};
    case DType::F32:
      return {H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, 4};
    case DType::F16:
      return {half_type(), half_type(), 2};
    case DType::I64:
      return {H5T_STD_I64LE, H5T_NATIVE_INT64, 8};
    case DType::I32:
      return {H5T_STD_I32LE, H5T_NATIVE_INT32, 4};
    case DType::I16:
      return {H5T_STD_I16LE, H5T_NATIVE_INT16, 2};
    case DType::I8:
      return {H5T_STD_I8LE, H5T_NATIVE_INT8, 1};
    default:
      break;
  }
  switch (bits) {
    case 64:
      return {H5T_STD_U64LE, H5T_NATIVE_UINT64, 8};
    case 32:
      return {H5T_STD_U32LE, H5T_NATIVE_UINT32, 4};
    case 16:
      return {H5T_STD_U16LE, H5T_NATIVE_UINT16, 2};
    case 8:
      return {H5T_STD_U8LE, H5T_NATIVE_UINT8, 1};
    default:
      return {};
  }
}

}  // namespace quant::hdf5
