#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "hdf5_storage.h"
#include "hdf5_tensor_types.h"
#include "quant/error.h"
#include "quant/hdf5_tensors.h"

namespace quant {
namespace {

using hdf5::Hdf5Handle;
using hdf5::Hdf5Session;

constexpr int kMaxDimensions = 32;
constexpr std::size_t kMaxTensors = 10'000'000;
constexpr std::uint64_t kMostChunk = 4 * hdf5::kChunkBytes;

[[noreturn]] void fail_at(const std::string& file, const std::string& problem) {
  throw Error(ErrorCode::corrupt_file, fmt::format("{}: {}", file, problem),
              "the file is damaged, or was not written by this project", "BadHdf5Tensor");
}

[[noreturn]] void fail(const std::string& file, const std::string& link, const std::string& problem) {
  fail_at(file, fmt::format("dataset '{}' {}", link, problem));
}

// The inverse of hdf5_link_name; nothing for a text that it does not make.
std::optional<std::string> part_of_link(const std::string& link) {
  std::string part;
  for (std::size_t i = 0; i < link.size(); ++i) {
    if (link[i] != '%') {
      part += link[i];
      continue;
    }
    if (link.size() == 1) break;  // an empty part
    unsigned byte = 0;
    for (int digit = 0; digit < 2; ++digit) {
      const char c = ++i < link.size() ? link[i] : '\0';
      const bool hex = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F');
      if (!hex) return std::nullopt;
      byte = byte * 16 + static_cast<unsigned>(c <= '9' ? c - '0' : c - 'A' + 10);
    }
    part += static_cast<char>(byte);
  }
  if (report::hdf5_link_name(part) != link) return std::nullopt;
  return part;
}

// `link`: of the dataset that has the attribute; empty: the root.
std::string read_text(const Hdf5Session& session, hid_t object, const std::string& key, const std::string& file,
                      const std::string& link) {
  const std::string action = fmt::format("read the attribute '{}' of '/{}'", key, link);
  const Hdf5Handle attribute = session.need(H5Aopen(object, key.c_str(), H5P_DEFAULT), H5Aclose, action);
  const Hdf5Handle type = session.need(H5Aget_type(attribute.get()), H5Tclose, action);
  const Hdf5Handle space = session.need(H5Aget_space(attribute.get()), H5Sclose, action);
  const std::size_t size = H5Tget_size(type.get());
  if (H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) != 0 || size > hdf5::kMostText ||
      H5Sget_simple_extent_npoints(space.get()) != 1) {
    fail_at(file,
            fmt::format("the attribute '{}' of '/{}' is no text of at most {} bytes", key, link, hdf5::kMostText));
  }
  std::string text(size, '\0');
  session.need(H5Aread(attribute.get(), type.get(), text.data()), action);
  while (!text.empty() && text.back() == '\0') text.pop_back();
  return text;
}

struct Dataset {
  StoredTensor tensor;
  std::string link;
  std::vector<hsize_t> sizes;
};

// Walks through groups and datasets that are linked hard, each one once.
class Scanner {
 public:
  Scanner(const Hdf5Session& session, std::string file)
      : session_(session), file_(std::move(file)), file_bytes_(std::filesystem::file_size(file_)) {}

  void scan(hid_t group, const std::string& path, const std::string& name, int depth) {
    if (depth > hdf5::kMostDepth) fail(file_, path, "lies too deep");
    H5G_info_t info{};
    session_.need(H5Gget_info(group, &info), fmt::format("list the group '/{}'", path));
    for (hsize_t i = 0; i < info.nlinks; ++i) {
      const std::string link = link_name(group, path, i);
      const std::string child = path.empty() ? link : path + "/" + link;
      const bool own = link == hdf5::kOwnLink && !path.empty();
      const auto part = own ? std::optional<std::string>("") : part_of_link(link);
      if (!part || (part->empty() && !own) || part->find('.') != std::string::npos)
        fail(file_, child, "has a name that is not escaped as it should be");
      H5L_info_t kind{};
      const std::string action = fmt::format("open '{}'", child);
      session_.need(H5Lget_info(group, link.c_str(), &kind, H5P_DEFAULT), action);
      if (kind.type != H5L_TYPE_HARD) fail(file_, child, "is linked from elsewhere");
      const Hdf5Handle object = session_.need(H5Oopen(group, link.c_str(), H5P_DEFAULT), H5Oclose, action);
      if (!seen_.insert(kind.u.address).second) fail(file_, child, "is linked twice");
      const std::string full = own ? name : path.empty() ? *part : name + "." + *part;
      switch (H5Iget_type(object.get())) {
        case H5I_GROUP:
          if (own) fail(file_, child, "is a group, not a dataset");
          scan(object.get(), child, full, depth + 1);
          break;
        case H5I_DATASET:
          add(object.get(), child, full);
          break;
        default:
          fail(file_, child, "is neither a group nor a dataset");
      }
    }
  }

  std::vector<Dataset> take() { return std::move(datasets_); }

 private:
  std::string link_name(hid_t group, const std::string& path, hsize_t i) const {
    const std::string action = fmt::format("read the names of the group '/{}'", path);
    const ssize_t size =
        session_.need(H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, nullptr, 0, H5P_DEFAULT), action);
    if (static_cast<std::size_t>(size) > hdf5::kMostText)
      fail_at(file_, fmt::format("the group '/{}' has a name of {} bytes", path, size));
    std::string name(static_cast<std::size_t>(size) + 1, '\0');
    session_.need(H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, name.data(), name.size(), H5P_DEFAULT),
                  action);
    name.pop_back();
    return name;
  }

  void add(hid_t dataset, const std::string& link, const std::string& name) {
    if (datasets_.size() == kMaxTensors) fail(file_, link, "is one of too many");
    Dataset found;
    found.link = link;
    found.tensor.name = name;
    if (H5Aexists(dataset, hdf5::kTypeKey) <= 0) fail(file_, link, "has no attribute 'dtype'");
    const std::string type_name = read_text(session_, dataset, hdf5::kTypeKey, file_, link);
    const auto type = parse_dtype(type_name);
    const hdf5::ElementType element = type ? hdf5::element_type(*type) : hdf5::ElementType{};
    if (element.file_type < 0) fail(file_, link, fmt::format("has the dtype '{}', which is not known", type_name));
    found.tensor.dtype = *type;
    const Hdf5Handle stored = session_.need(H5Dget_type(dataset), H5Tclose, fmt::format("read the type of '{}'", link));
    if (H5Tequal(stored.get(), element.file_type) <= 0) {
      fail(file_, link, fmt::format("is not stored as {} demands", type_name));
    }
    read_shape(dataset, link, found);
    check_storage(dataset, link);
    datasets_.push_back(std::move(found));
  }

  void read_shape(hid_t dataset, const std::string& link, Dataset& found) const {
    const std::string action = fmt::format("read the shape of '{}'", link);
    const Hdf5Handle space = session_.need(H5Dget_space(dataset), H5Sclose, action);
    const H5S_class_t kind = H5Sget_simple_extent_type(space.get());
    if (kind == H5S_SCALAR) return;
    const int dimensions = kind == H5S_SIMPLE ? H5Sget_simple_extent_ndims(space.get()) : -1;
    if (dimensions < 0 || dimensions > kMaxDimensions) fail(file_, link, "has no shape that a tensor may have");
    found.sizes.resize(static_cast<std::size_t>(dimensions));
    session_.need(H5Sget_simple_extent_dims(space.get(), found.sizes.data(), nullptr), action);
    found.tensor.shape.assign(found.sizes.begin(), found.sizes.end());
    try {
      found.tensor.bytes();
    } catch (const Error& error) {
      fail(file_, link, fmt::format("has a shape of too many values: {}", error.what()));
    }
  }

  void check_storage(hid_t dataset, const std::string& link) {
    const std::string action = fmt::format("look at the dataset '{}'", link);
    check_filters(dataset, link, action);
    const hdf5::Storage storage = hdf5::look_at_storage(session_, dataset, {file_bytes_, kMostChunk}, action);
    if (!storage.problem.empty()) fail(file_, link, storage.problem);
    // Datasets that share their bytes would multiply what the file can hold.
    if (storage.bytes > file_bytes_ - stored_bytes_) {
      fail(file_, link,
           fmt::format("says that it takes {} bytes, which are not left of a file of {}", storage.bytes, file_bytes_));
    }
    stored_bytes_ += storage.bytes;
  }

  void check_filters(hid_t dataset, const std::string& link, const std::string& action) const {
    const Hdf5Handle creation = session_.need(H5Dget_create_plist(dataset), H5Pclose, action);
    const int filters = session_.need(H5Pget_nfilters(creation.get()), action);
    for (int i = 0; i < filters; ++i) {
      unsigned flags = 0;
      std::size_t values = 0;
      const H5Z_filter_t filter =
          H5Pget_filter2(creation.get(), static_cast<unsigned>(i), &flags, &values, nullptr, 0, nullptr, nullptr);
      if (filter != H5Z_FILTER_DEFLATE && filter != H5Z_FILTER_SHUFFLE && filter != H5Z_FILTER_FLETCHER32) {
        fail(file_, link,
             fmt::format("has the filter {}; deflate, shuffle and fletcher32 can be read", static_cast<int>(filter)));
      }
    }
  }

  const Hdf5Session& session_;
  std::string file_;
  std::uint64_t file_bytes_;
  std::uint64_t stored_bytes_ = 0;  // by the datasets so far
  std::vector<Dataset> datasets_;
  std::set<haddr_t> seen_;
};

}  // namespace

struct Hdf5TensorReader::State {
  std::string file;
  hid_t id = -1;
  std::vector<Dataset> datasets;
  std::vector<StoredTensor> tensors;
  std::vector<std::pair<std::string, std::string>> metadata;

  ~State() {
    if (id < 0) return;
    const Hdf5Session session(file, ErrorCode::io);
    H5Fclose(id);
  }
};

namespace {

std::vector<std::pair<std::string, std::string>> read_metadata(const Hdf5Session& session, hid_t root,
                                                               const std::string& file) {
  std::vector<std::pair<std::string, std::string>> metadata;
  H5O_info_t info{};
  session.need(H5Oget_info(root, &info), "list the root's attributes");
  for (hsize_t i = 0; i < info.num_attrs; ++i) {
    std::array<char, hdf5::kMostKey + 1> name{};
    const ssize_t size =
        H5Aget_name_by_idx(root, ".", H5_INDEX_NAME, H5_ITER_INC, i, name.data(), name.size(), H5P_DEFAULT);
    session.need(size, "read the names of the root's attributes");
    if (static_cast<std::size_t>(size) > hdf5::kMostKey) {
      fail_at(file, fmt::format("an attribute's name has {} bytes; at most {} are read", size, hdf5::kMostKey));
    }
    const std::string key(name.data());
    if (key.starts_with(hdf5::kMetadataPrefix)) {
      metadata.emplace_back(key.substr(std::string_view(hdf5::kMetadataPrefix).size()),
                            read_text(session, root, key, file, ""));
    }
  }
  return metadata;
}

}  // namespace

Hdf5TensorReader::Hdf5TensorReader(const std::filesystem::path& path) : state_(std::make_unique<State>()) {
  state_->file = path.string();
  {
    const Hdf5Session session(state_->file, ErrorCode::io);
    state_->id =
        session.need(H5Fopen(state_->file.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose, "open the file").release();
  }
  const Hdf5Session session(state_->file, ErrorCode::corrupt_file);
  const Hdf5Handle root = session.need(H5Gopen2(state_->id, "/", H5P_DEFAULT), H5Gclose, "open its root");
  if (H5Aexists(root.get(), hdf5::kFormatKey) <= 0 ||
      read_text(session, root.get(), hdf5::kFormatKey, state_->file, "") != hdf5::kFormatValue) {
    throw Error(ErrorCode::unsupported, state_->file + " is an HDF5 file, but not one of tensors",
                "only files that `quant convert` wrote are read", "NoHdf5Tensors");
  }
  state_->metadata = read_metadata(session, root.get(), state_->file);
  Scanner scanner(session, state_->file);
  scanner.scan(root.get(), "", "", 0);
  state_->datasets = scanner.take();
  std::sort(state_->datasets.begin(), state_->datasets.end(),
            [](const Dataset& a, const Dataset& b) { return a.tensor.name < b.tensor.name; });
  for (const Dataset& dataset : state_->datasets) {
    if (!state_->tensors.empty() && state_->tensors.back().name == dataset.tensor.name) {
      fail(state_->file, dataset.link, "has the name of another");
    }
    state_->tensors.push_back(dataset.tensor);
  }
}

Hdf5TensorReader::~Hdf5TensorReader() = default;

const std::vector<StoredTensor>& Hdf5TensorReader::tensors() const { return state_->tensors; }
const std::vector<std::pair<std::string, std::string>>& Hdf5TensorReader::metadata() const { return state_->metadata; }

void Hdf5TensorReader::read(std::size_t tensor, std::uint64_t first, std::uint64_t count,
                            std::span<std::byte> out) const {
  const Dataset& dataset = state_->datasets.at(tensor);
  const std::uint64_t rows = dataset.sizes.empty() ? 1 : dataset.sizes[0];
  const std::uint64_t row_bytes = rows == 0 ? 0 : dataset.tensor.bytes() / rows;
  if (first > rows || count > rows - first || out.size() != count * row_bytes) {
    throw Error(ErrorCode::internal, fmt::format("{}: rows {} to {} of {} cannot be read into {} bytes", state_->file,
                                                 first, first + count, dataset.tensor.name, out.size()));
  }
  if (out.empty()) return;
  const Hdf5Session session(state_->file, ErrorCode::corrupt_file);
  const std::string action = fmt::format("read the dataset '{}'", dataset.link);
  const Hdf5Handle id = session.need(H5Dopen2(state_->id, dataset.link.c_str(), H5P_DEFAULT), H5Dclose, action);
  const hid_t type = hdf5::element_type(dataset.tensor.dtype).memory_type;
  hdf5::transfer(session, id.get(), dataset.sizes, first, count, action, [&](hid_t memory, hid_t file_space) {
    return H5Dread(id.get(), type, memory, file_space, H5P_DEFAULT, out.data());
  });
}

bool is_hdf5_file(const std::filesystem::path& path) {
  constexpr std::array<char, 8> kSignature{'\x89', 'H', 'D', 'F', '\r', '\n', '\x1A', '\n'};
  std::array<char, 8> start{};
  // Opening a pipe would wait for its writer.
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return false;
  std::ifstream in(path, std::ios::binary);
  return in.read(start.data(), start.size()) && start == kSignature;
}

}  // namespace quant
