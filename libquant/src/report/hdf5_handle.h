// HDF5's C interface with owners and exceptions.
#pragma once

#include <hdf5.h>

#include <mutex>
#include <string>
#include <utility>

#include "quant/error.h"

namespace quant::report {

/// Owns an identifier of any kind and closes it with the function that belongs to it.
class Hdf5Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Hdf5Handle(hid_t id, Close close) : id_(id), close_(close) {}
  ~Hdf5Handle() {
    if (id_ >= 0) close_(id_);
  }
  Hdf5Handle(Hdf5Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Hdf5Handle(const Hdf5Handle&) = delete;
  Hdf5Handle& operator=(const Hdf5Handle&) = delete;
  Hdf5Handle& operator=(Hdf5Handle&&) = delete;

  hid_t get() const { return id_; }
  /// Gives the identifier away, to be closed by another.
  hid_t release() { return std::exchange(id_, -1); }

 private:
  hid_t id_;
  Close close_;
};

/// While it lives, this thread alone uses HDF5 (the library need not be built thread-safe) and HDF5 prints nothing.
class Hdf5Session {
 public:
  /// `file` and `code` go into the errors that `need` throws.
  Hdf5Session(std::string file, ErrorCode code);
  ~Hdf5Session();
  Hdf5Session(const Hdf5Session&) = delete;
  Hdf5Session& operator=(const Hdf5Session&) = delete;

  /// Takes a new identifier, or throws Error{code} saying what could not be done and HDF5's own reason.
  Hdf5Handle need(hid_t id, Hdf5Handle::Close close, const std::string& action) const;
  /// Checks a result of a call; negative is failure.
  template <class Result>
  Result need(Result result, const std::string& action) const {
    if (result < 0) fail(action);
    return result;
  }
  /// Throws Error{code} with HDF5's innermost reason, if there is one.
  [[noreturn]] void fail(const std::string& action) const;

 private:
  std::unique_lock<std::mutex> lock_;
  std::string file_;
  ErrorCode code_;
  H5E_auto2_t old_printer_ = nullptr;
  void* old_data_ = nullptr;
};

/// Name of the group of a module: '%', '/' and control characters as %XX, "." as %2E, nothing as "%".
std::string hdf5_link_name(const std::string& module);

}  // namespace quant::report
