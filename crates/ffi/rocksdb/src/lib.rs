//! RocksDB through an encrypting, authenticating file system.
