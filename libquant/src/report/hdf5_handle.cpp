#include "report/hdf5_handle.h"

#include <fmt/format.h>

namespace quant::report {

namespace {

std::mutex& hdf5_mutex() {
  static std::mutex mutex;
  return mutex;
}

// H5E_WALK_UPWARD visits the innermost call first.
herr_t keep_first(unsigned, const H5E_error2_t* entry, void* data) {
  auto& reason = *static_cast<std::string*>(data);
  if (reason.empty() && entry->desc != nullptr) reason = entry->desc;
  return 0;
}

// A file whose last writes failed cannot be closed, and HDF5 1.10 crashes when it tries again as the process ends. All
// files are closed here, so it need not try. In a program that has begun to use HDF5 before, this does nothing.
void leave_exit_alone() {
  static std::once_flag once;
  std::call_once(once, [] { H5dont_atexit(); });
}

}  // namespace

Hdf5Session::Hdf5Session(std::string file, ErrorCode code) : lock_(hdf5_mutex()), file_(std::move(file)), code_(code) {
  leave_exit_alone();
  H5Eget_auto2(H5E_DEFAULT, &old_printer_, &old_data_);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

Hdf5Session::~Hdf5Session() { H5Eset_auto2(H5E_DEFAULT, old_printer_, old_data_); }

Hdf5Handle Hdf5Session::need(hid_t id, Hdf5Handle::Close close, const std::string& action) const {
  if (id < 0) fail(action);
  return Hdf5Handle(id, close);
}

void Hdf5Session::fail(const std::string& action) const {
  std::string reason;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &reason);
  if (code_ == ErrorCode::corrupt_file) {
    throw Error(
        code_,
        file_ + ": is damaged or truncated" + (reason.empty() ? "" : " (HDF5: " + reason + ")") + ": cannot " + action,
        {}, "Hdf5");
  }
  throw Error(code_, file_ + ": cannot " + action + (reason.empty() ? "" : " (HDF5: " + reason + ")"), {}, "Hdf5");
}

std::string hdf5_link_name(const std::string& module) {
  if (module.empty()) return "%";
  if (module == ".") return "%2E";
  std::string name;
  for (const char c : module) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '%' || c == '/' || byte < 0x20 || byte == 0x7F) {
      name += fmt::format("%{:02X}", byte);
    } else {
      name += c;
    }
  }
  return name;
}

}  // namespace quant::report
