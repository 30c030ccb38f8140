// A FileSystem whose files are Rust's. Nothing is decided here: names, bytes and answers go across, that is all.
// The other side is adaptor.rs; what a file looks like is in docs/spec/memory-store.md.

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>

#include "rocksdb/convenience.h"
#include "rocksdb/db.h"
#include "rocksdb/env.h"
#include "rocksdb/file_system.h"
#include "rocksdb/listener.h"
#include "rocksdb/options.h"

using namespace ROCKSDB_NAMESPACE;

// As RocksDB's db/c.cc has them.
struct rocksdb_env_t {
  Env* rep;
  bool is_default;
};
struct rocksdb_t {
  DB* rep;
};
struct rocksdb_options_t {
  Options rep;
};

extern "C" {
// Answers: 0, an errno, or one of these.
enum { kDamaged = -1, kRefused = -2 };

struct aico_calls {
  void (*drop_folder)(void* folder);
  int (*may_change)(const void* folder);
  int (*size)(const void* folder, const char* path, size_t length, uint64_t* size);
  int (*create)(const void* folder, const char* path, size_t length, void** writer);
  int (*append)(const void* writer, const char* data, size_t length);
  int (*flush)(const void* writer);
  int (*sync)(const void* writer);
  int (*close)(const void* writer);
  void (*drop_writer)(void* writer);
  int (*open)(const void* folder, const char* path, size_t length, void** reader);
  int (*read)(const void* reader, char* out, size_t length, size_t* read);
  void (*drop_reader)(void* reader);
  int (*open_blocks)(const void* folder, const char* path, size_t length, void** blocks);
  int (*read_blocks)(const void* blocks, uint64_t offset, char* out, size_t length, size_t* read);
  void (*drop_blocks)(void* blocks);
};
}

namespace {

IOStatus Answer(int code, const std::string& path) {
  if (code == 0) return IOStatus::OK();
  const std::string name = path.substr(path.find_last_of('/') + 1);
  switch (code) {
    case kDamaged:
      return IOStatus::Corruption(name);
    case kRefused:
      return IOStatus::NotSupported(name);
    case ENOENT:
      return IOStatus::PathNotFound(name);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return IOStatus::NoSpace(name);
    default:
      return IOStatus::IOError(name, std::strerror(code > 0 ? code : EIO));
  }
}

class Writer final : public FSWritableFile {
 public:
  Writer(const aico_calls& calls, void* rust, const std::string& path) : calls_(calls), rust_(rust), path_(path) {}
  ~Writer() override { calls_.drop_writer(rust_); }

  using FSWritableFile::Append;
  IOStatus Append(const Slice& data, const IOOptions&, IODebugContext*) override {
    const int code = calls_.append(rust_, data.data(), data.size());
    if (code == 0) size_ += data.size();
    return Answer(code, path_);
  }
  IOStatus Flush(const IOOptions&, IODebugContext*) override { return Answer(calls_.flush(rust_), path_); }
  IOStatus Sync(const IOOptions&, IODebugContext*) override { return Answer(calls_.sync(rust_), path_); }
  IOStatus Fsync(const IOOptions&, IODebugContext*) override { return Answer(calls_.sync(rust_), path_); }
  IOStatus Close(const IOOptions&, IODebugContext*) override { return Answer(calls_.close(rust_), path_); }
  // The base class would shorten nothing and say that all is well.
  IOStatus Truncate(uint64_t size, const IOOptions&, IODebugContext*) override {
    return size == size_ ? IOStatus::OK() : Answer(kRefused, path_);
  }
  uint64_t GetFileSize(const IOOptions&, IODebugContext*) override { return size_; }

 private:
  const aico_calls& calls_;
  void* rust_;
  const std::string path_;
  uint64_t size_ = 0;
};

class Reader final : public FSSequentialFile {
 public:
  Reader(const aico_calls& calls, void* rust, const std::string& path) : calls_(calls), rust_(rust), path_(path) {}
  ~Reader() override { calls_.drop_reader(rust_); }

  IOStatus Read(size_t length, const IOOptions&, Slice* result, char* scratch, IODebugContext*) override {
    size_t read = 0;
    const int code = calls_.read(rust_, scratch, length, &read);
    *result = Slice(scratch, read);
    return Answer(code, path_);
  }
  IOStatus Skip(uint64_t length) override {
    char scratch[4096];
    while (length > 0) {
      size_t read = 0;
      const int code = calls_.read(rust_, scratch, length < sizeof scratch ? length : sizeof scratch, &read);
      if (code != 0 || read == 0) return Answer(code, path_);
      length -= read;
    }
    return IOStatus::OK();
  }

 private:
  const aico_calls& calls_;
  void* rust_;
  const std::string path_;
};

class Blocks final : public FSRandomAccessFile {
 public:
  Blocks(const aico_calls& calls, void* rust, const std::string& path) : calls_(calls), rust_(rust), path_(path) {}
  ~Blocks() override { calls_.drop_blocks(rust_); }

  IOStatus Read(uint64_t offset, size_t length, const IOOptions&, Slice* result, char* scratch,
                IODebugContext*) const override {
    size_t read = 0;
    const int code = calls_.read_blocks(rust_, offset, scratch, length, &read);
    *result = Slice(scratch, read);
    return Answer(code, path_);
  }

 private:
  const aico_calls& calls_;
  void* rust_;
  const std::string path_;
};

class Silent final : public Logger {
 public:
  using Logger::Logv;
  void Logv(const char*, va_list) override {}
};

// A store that could not write is opened again (memory.rs); RocksDB would go on with the one that could not, and stop for
// good if it fails a second time.
class ByHand final : public EventListener {
 public:
  void OnErrorRecoveryBegin(BackgroundErrorReason, Status, bool* automatic) override { *automatic = false; }
};

class Sealed final : public FileSystemWrapper {
 public:
  Sealed(const aico_calls& calls, void* folder)
      : FileSystemWrapper(FileSystem::Default()), calls_(calls), folder_(folder) {}
  ~Sealed() override { calls_.drop_folder(folder_); }
  const char* Name() const override { return "aico"; }

  IOStatus NewSequentialFile(const std::string& path, const FileOptions&, std::unique_ptr<FSSequentialFile>* result,
                             IODebugContext*) override {
    void* rust = nullptr;
    const int code = calls_.open(folder_, path.data(), path.size(), &rust);
    if (code == 0) result->reset(new Reader(calls_, rust, path));
    return Answer(code, path);
  }
  IOStatus NewRandomAccessFile(const std::string& path, const FileOptions&,
                               std::unique_ptr<FSRandomAccessFile>* result, IODebugContext*) override {
    void* rust = nullptr;
    const int code = calls_.open_blocks(folder_, path.data(), path.size(), &rust);
    if (code == 0) result->reset(new Blocks(calls_, rust, path));
    return Answer(code, path);
  }
  IOStatus NewWritableFile(const std::string& path, const FileOptions&, std::unique_ptr<FSWritableFile>* result,
                           IODebugContext*) override {
    void* rust = nullptr;
    const int code = calls_.create(folder_, path.data(), path.size(), &rust);
    if (code == 0) result->reset(new Writer(calls_, rust, path));
    return Answer(code, path);
  }
  IOStatus GetFileSize(const std::string& path, const IOOptions&, uint64_t* size, IODebugContext*) override {
    return Answer(calls_.size(folder_, path.data(), path.size(), size), path);
  }
  IOStatus GetChildrenFileAttributes(const std::string& path, const IOOptions& options,
                                     std::vector<FileAttributes>* result, IODebugContext* debug) override {
    return FileSystem::GetChildrenFileAttributes(path, options, result, debug);
  }
  IOStatus DeleteFile(const std::string& path, const IOOptions& options, IODebugContext* debug) override {
    const int code = calls_.may_change(folder_);
    return code == 0 ? FileSystemWrapper::DeleteFile(path, options, debug) : Answer(code, path);
  }
  IOStatus RenameFile(const std::string& from, const std::string& to, const IOOptions& options,
                      IODebugContext* debug) override {
    const int code = calls_.may_change(folder_);
    return code == 0 ? FileSystemWrapper::RenameFile(from, to, options, debug) : Answer(code, from);
  }
  IOStatus NewLogger(const std::string&, const IOOptions&, std::shared_ptr<Logger>* result, IODebugContext*) override {
    result->reset(new Silent());
    return IOStatus::OK();
  }
  void SupportedOps(int64_t& operations) override { operations = 0; }

  // What would go past the files above.
  IOStatus ReopenWritableFile(const std::string& path, const FileOptions&, std::unique_ptr<FSWritableFile>*,
                              IODebugContext*) override {
    return Answer(kRefused, path);
  }
  IOStatus ReuseWritableFile(const std::string& path, const std::string&, const FileOptions&,
                             std::unique_ptr<FSWritableFile>*, IODebugContext*) override {
    return Answer(kRefused, path);
  }
  IOStatus NewRandomRWFile(const std::string& path, const FileOptions&, std::unique_ptr<FSRandomRWFile>*,
                           IODebugContext*) override {
    return Answer(kRefused, path);
  }
  IOStatus NewMemoryMappedFileBuffer(const std::string& path, std::unique_ptr<MemoryMappedFileBuffer>*) override {
    return Answer(kRefused, path);
  }
  IOStatus Truncate(const std::string& path, size_t, const IOOptions&, IODebugContext*) override {
    return Answer(kRefused, path);
  }
  IOStatus LinkFile(const std::string& path, const std::string&, const IOOptions&, IODebugContext*) override {
    return Answer(kRefused, path);
  }
  // The base class opens the file for writing; the wrapped one would sync it below us, which is what is wanted.
  IOStatus SyncFile(const std::string& path, const FileOptions& file_options, const IOOptions& options,
                    bool use_fsync, IODebugContext* debug) override {
    return target_->SyncFile(path, file_options, options, use_fsync, debug);
  }

 private:
  const aico_calls& calls_;
  void* folder_;
};

}  // namespace

extern "C" {

// Takes over `folder`. `calls` must live for ever. Null if there is no memory for it; then `folder` is the caller's still.
rocksdb_env_t* aico_env(const aico_calls* calls, void* folder) noexcept {
  return new rocksdb_env_t{NewCompositeEnv(std::make_shared<Sealed>(*calls, folder)).release(), false};
}

// What the C interface does not have.
void aico_options(rocksdb_options_t* options) noexcept {
  options->rep.listeners.push_back(std::make_shared<ByHand>());
}

// Everything, so that what has expired leaves the lowest level too.
int aico_compact(rocksdb_t* db) noexcept {
  CompactRangeOptions options;
  options.bottommost_level_compaction = BottommostLevelCompaction::kForceOptimized;
  const Status status = db->rep->CompactRange(options, nullptr, nullptr);
  return status.ok() ? 0 : status.IsNoSpace() ? ENOSPC : EIO;
}
}
