// DuckDB's C++ side: a cipher over OpenSSL, one database on an encrypted file, and what Rust asks of it. Nothing is thrown
// into Rust: every function that it calls catches everything.
#include <atomic>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <malloc.h>
#include <memory>
#include <new>
#include <string>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include "duckdb.hpp"
#include "duckdb/common/encryption_state.hpp"
#include "duckdb/main/appender.hpp"
#include "duckdb/main/attached_database.hpp"
#include "duckdb/main/client_context.hpp"
#include "duckdb/main/database_manager.hpp"
#include "duckdb/main/prepared_statement.hpp"
#include "duckdb/parser/parsed_data/attach_info.hpp"
#include "duckdb/parser/sql_statement.hpp"

using namespace duckdb;

namespace {

constexpr idx_t KEY_BYTES = 32;
constexpr idx_t NONCE_BYTES = 12;
constexpr idx_t TAG_BYTES = 16;

// What DuckDB takes for the key of its file. It is no secret: the cipher mixes it with ours, which DuckDB never has.
constexpr const char *NO_SECRET = "YWljbw==";

// AES-256-GCM under HMAC-SHA-256(our key, DuckDB's key).
class Gcm final : public EncryptionState {
public:
	Gcm(unique_ptr<EncryptionStateMetadata> metadata, const uint8_t *key)
	    : EncryptionState(std::move(metadata)), key(key), context(EVP_CIPHER_CTX_new()) {
		// The file's header says which cipher and version it wants, and nothing vouches for the header.
		if (this->metadata->GetCipher() != EncryptionTypes::GCM || this->metadata->GetKeyLen() != KEY_BYTES ||
		    this->metadata->GetVersion() != EncryptionTypes::V0_1) {
			throw IOException("the file is not sealed with AES-256-GCM");
		}
		Check(context != nullptr);
	}

	~Gcm() override {
		EVP_CIPHER_CTX_free(context); // Wipes the key schedule.
	}

	void InitializeEncryption(EncryptionNonce &nonce, const_data_ptr_t theirs, const_data_ptr_t aad,
	                          idx_t aad_len) override {
		Begin(true, nonce, theirs, aad, aad_len);
	}

	void InitializeDecryption(EncryptionNonce &nonce, const_data_ptr_t theirs, const_data_ptr_t aad,
	                          idx_t aad_len) override {
		Begin(false, nonce, theirs, aad, aad_len);
	}

	size_t Process(const_data_ptr_t in, idx_t in_len, data_ptr_t out, idx_t out_len) override {
		int written = 0;
		Check(in_len <= INT_MAX && out_len >= in_len);
		Check(EVP_CipherUpdate(context, out, &written, in, static_cast<int>(in_len)) == 1);
		return static_cast<size_t>(written);
	}

	size_t Finalize(data_ptr_t, idx_t, data_ptr_t tag, idx_t tag_len) override {
		// GCM writes nothing here; the callers' buffers may be full.
		uint8_t none[TAG_BYTES];
		int written = 0;
		Check(tag != nullptr && tag_len == TAG_BYTES);
		if (encrypting) {
			Check(EVP_CipherFinal_ex(context, none, &written) == 1 && written == 0);
			Check(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, tag) == 1);
		} else {
			Check(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, tag) == 1);
			if (EVP_CipherFinal_ex(context, none, &written) != 1 || written != 0) {
				throw IOException("sealed bytes do not open: another key, or they were changed");
			}
		}
		return 0;
	}

	void GenerateRandomData(data_ptr_t data, idx_t len) override {
		Check(len <= INT_MAX && RAND_bytes(data, static_cast<int>(len)) == 1);
	}

private:
	static void Check(bool holds) {
		if (!holds) {
			throw IOException("the cipher failed");
		}
	}

	void Begin(bool encrypt, EncryptionNonce &nonce, const_data_ptr_t theirs, const_data_ptr_t aad, idx_t aad_len) {
		uint8_t mixed[KEY_BYTES];
		unsigned int mixed_len = 0;
		int none = 0;
		encrypting = encrypt;
		Check(nonce.size() == NONCE_BYTES && theirs != nullptr && aad_len <= INT_MAX);
		Check(HMAC(EVP_sha256(), key, KEY_BYTES, theirs, KEY_BYTES, mixed, &mixed_len) != nullptr);
		int begun = EVP_CipherInit_ex(context, EVP_aes_256_gcm(), nullptr, mixed, nonce.data(), encrypt ? 1 : 0);
		OPENSSL_cleanse(mixed, sizeof mixed);
		Check(begun == 1 && mixed_len == KEY_BYTES);
		if (aad_len > 0) {
			Check(EVP_CipherUpdate(context, nullptr, &none, aad, static_cast<int>(aad_len)) == 1);
		}
	}

	const uint8_t *key;
	EVP_CIPHER_CTX *context;
	bool encrypting = false;
};

class Cipher final : public EncryptionUtil {
public:
	explicit Cipher(const uint8_t *key) : key(key) {
	}

	shared_ptr<EncryptionState> CreateEncryptionState(unique_ptr<EncryptionStateMetadata> metadata) const override {
		return make_shared_ptr<Gcm>(std::move(metadata), key);
	}

	void OverrideEncryptionUtil() override {
	}

private:
	// Lent by Rust for as long as the database is open.
	const uint8_t *key;
};

// DuckDB's limit on memory is for its buffers. The lists and texts that a function makes are not among them, and a question
// of one line can ask for any number of gigabytes: so its allocators, and that of C++, have an end, too.
constexpr int64_t MOST_BYTES = 512LL << 20;
std::atomic<int64_t> taken {0};

// `size` bytes, those of `before` among them; null beyond the limit.
void *Resize(void *before, size_t size) {
	auto had = static_cast<int64_t>(before ? malloc_usable_size(before) : 0);
	auto more = static_cast<int64_t>(size) - had;
	// Little ones are given in any case: the way out of an error needs some.
	if (size > 4096 && more > 0 && (more > MOST_BYTES || taken + more > MOST_BYTES)) {
		return nullptr;
	}
	auto memory = realloc(before, size);
	if (memory) {
		taken += static_cast<int64_t>(malloc_usable_size(memory)) - had;
	}
	return memory;
}

void Release(void *memory) noexcept {
	if (memory) {
		taken -= static_cast<int64_t>(malloc_usable_size(memory));
		free(memory);
	}
}

data_ptr_t Take(PrivateAllocatorData *, idx_t size) {
	return static_cast<data_ptr_t>(Resize(nullptr, size)); // Null becomes DuckDB's own error.
}

void Give(PrivateAllocatorData *, data_ptr_t memory, idx_t) {
	Release(memory);
}

data_ptr_t Retake(PrivateAllocatorData *, data_ptr_t memory, idx_t, idx_t size) {
	return static_cast<data_ptr_t>(Resize(memory, size));
}

// Once, before the first database. The allocator before it stays, for whoever has a reference to it.
void LimitMemory() {
	static shared_ptr<Allocator> before = [] {
		auto limited = make_shared_ptr<Allocator>(Take, Give, Retake, nullptr);
		std::swap(Allocator::DefaultAllocatorReference(), limited);
		return limited;
	}();
	(void)before;
}

struct Database {
	unique_ptr<DuckDB> duckdb;
	unique_ptr<Connection> connection;
};

string Tidy(const std::exception &error) {
	return ErrorData(error).Message();
}

} // namespace

// C++'s own, for all C++ of this process: DuckDB, and what is here.
void *operator new(size_t size) {
	auto memory = Resize(nullptr, size ? size : 1);
	if (!memory) {
		throw std::bad_alloc();
	}
	return memory;
}

void *operator new[](size_t size) {
	return operator new(size);
}

void operator delete(void *memory) noexcept {
	Release(memory);
}

void operator delete[](void *memory) noexcept {
	Release(memory);
}

void operator delete(void *memory, size_t) noexcept {
	Release(memory);
}

void operator delete[](void *memory, size_t) noexcept {
	Release(memory);
}

extern "C" {

struct aico_cell {
	const char *text; // Null for NULL.
	size_t bytes;
	int64_t number;
	uint8_t kind; // In rows to append: 0 NULL, 1 text, 2 number, 3 milliseconds since 1970.
};

struct aico_setup {
	const char *file;
	const char *temporary; // A folder; null for none.
	const uint8_t *key;    // 32 bytes; null for a file in the clear, which only tests ask for.
	uint64_t memory_bytes;
	uint64_t temporary_bytes;
	uint64_t threads;
	uint8_t read_only;
	uint8_t plain_temporary; // Only tests ask for it.
};

// Takes an error's text over.
typedef void (*aico_tell)(void *to, const char *text, size_t bytes);
// Takes names and types (row 0 and 1 of the answer) or a row; 0 to go on.
typedef int (*aico_row)(void *to, uint8_t what, const aico_cell *cells, size_t count);
}

namespace {

template <class F>
int Guarded(void *to, aico_tell tell, F run) {
	string text;
	try {
		run();
		return 0;
	} catch (const std::exception &error) {
		try {
			text = Tidy(error);
		} catch (...) {
		}
	} catch (...) {
	}
	tell(to, text.data(), text.size());
	return 1;
}

void Run(Connection &connection, const string &sql) {
	auto result = connection.Query(sql);
	if (result->HasError()) {
		result->ThrowError();
	}
}

void Open(const aico_setup &setup, Database &database) {
	if (strcmp(DuckDB::LibraryVersion(), AICO_DUCKDB_VERSION) != 0) {
		throw IOException("the library is DuckDB %s, and not " AICO_DUCKDB_VERSION, DuckDB::LibraryVersion());
	}
	LimitMemory();
	DBConfig config;
	config.allocator = make_uniq<Allocator>(Take, Give, Retake, nullptr);
	config.options.maximum_memory = setup.memory_bytes;
	config.options.maximum_threads = setup.threads;
	config.options.use_temporary_directory = setup.temporary != nullptr;
	if (setup.temporary) {
		config.options.temporary_directory = setup.temporary;
		config.options.maximum_swap_space = setup.temporary_bytes;
	}
	config.SetOptionByName("autoinstall_known_extensions", Value::BOOLEAN(false));
	config.SetOptionByName("autoload_known_extensions", Value::BOOLEAN(false));
	config.SetOptionByName("allow_community_extensions", Value::BOOLEAN(false));
	config.SetOptionByName("temp_file_encryption", Value::BOOLEAN(!setup.plain_temporary));
	config.SetOptionByName("external_threads", Value::UBIGINT(1));
	database.duckdb = make_uniq<DuckDB>(nullptr, &config);
	if (setup.key) {
		// Not before: an instance takes nobody's cipher over from its configuration.
		DBConfig::GetConfig(*database.duckdb->instance).encryption_util = make_shared_ptr<Cipher>(setup.key);
	}
	database.connection = make_uniq<Connection>(*database.duckdb);
	auto &context = *database.connection->context;

	AttachInfo info;
	info.name = "history";
	info.path = setup.file;
	info.options["read_only"] = Value::BOOLEAN(setup.read_only != 0);
	info.options["storage_version"] = Value("v1.5.0");
	if (setup.key) {
		info.options["encryption_key"] = Value(NO_SECRET);
		info.options["encryption_cipher"] = Value("GCM");
	}
	context.RunFunctionInTransaction([&]() {
		AttachOptions options(info.options, AccessMode::AUTOMATIC);
		DatabaseManager::Get(context).AttachDatabase(context, info, options);
	});
	auto &connection = *database.connection;
	Run(connection, "USE history");
	Run(connection, "SET enable_external_access = false");
	if (setup.read_only) {
		// The file is open; nobody needs its path any more.
		DBConfig::GetConfig(*database.duckdb->instance).options.allowed_paths.clear();
	}
	Run(connection, "SET lock_configuration = true");
}

unique_ptr<PreparedStatement> Question(Connection &connection, const string &sql) {
	auto statements = connection.ExtractStatements(sql);
	if (statements.size() != 1) {
		throw InvalidInputException("one question at a time");
	}
	const char *only = "only questions are answered: SELECT, FROM, DESCRIBE, SHOW";
	if (statements[0]->type != StatementType::SELECT_STATEMENT) {
		throw PermissionException(only);
	}
	auto prepared = connection.Prepare(std::move(statements[0]));
	if (prepared->HasError()) {
		prepared->GetErrorObject().Throw();
	}
	// What was bound may be another thing than what was parsed.
	auto properties = prepared->GetStatementProperties();
	if (prepared->GetStatementType() != StatementType::SELECT_STATEMENT || !properties.IsReadOnly() ||
	    properties.return_type != StatementReturnType::QUERY_RESULT) {
		throw PermissionException(only);
	}
	if (properties.parameter_count != 0) {
		throw InvalidInputException("a question has no parameters");
	}
	return prepared;
}

uint8_t Kind(const LogicalType &type) {
	switch (type.id()) {
	case LogicalTypeId::BOOLEAN:
		return 1;
	case LogicalTypeId::TINYINT:
	case LogicalTypeId::SMALLINT:
	case LogicalTypeId::INTEGER:
	case LogicalTypeId::BIGINT:
	case LogicalTypeId::UTINYINT:
	case LogicalTypeId::USMALLINT:
	case LogicalTypeId::UINTEGER:
	case LogicalTypeId::UBIGINT:
	case LogicalTypeId::HUGEINT:
	case LogicalTypeId::UHUGEINT:
		return 2;
	case LogicalTypeId::FLOAT:
	case LogicalTypeId::DOUBLE:
	case LogicalTypeId::DECIMAL:
		return 3;
	default:
		return 0;
	}
}

} // namespace

extern "C" {

int aico_duckdb_open(const aico_setup *setup, void **out, void *to, aico_tell tell) {
	return Guarded(to, tell, [&]() {
		auto database = make_uniq<Database>();
		Open(*setup, *database);
		*out = database.release();
	});
}

int aico_duckdb_close(void *handle, void *to, aico_tell tell) {
	return Guarded(to, tell, [&]() {
		std::unique_ptr<Database> database(static_cast<Database *>(handle));
		database->connection.reset();
		database->duckdb.reset();
	});
}

int aico_duckdb_run(void *handle, const char *sql, size_t bytes, void *to, aico_tell tell) {
	return Guarded(to, tell, [&]() { Run(*static_cast<Database *>(handle)->connection, string(sql, bytes)); });
}

int aico_duckdb_append(void *handle, const char *table, const aico_cell *cells, size_t columns, size_t rows, void *to,
                       aico_tell tell) {
	return Guarded(to, tell, [&]() {
		Appender appender(*static_cast<Database *>(handle)->connection, table);
		for (size_t row = 0; row < rows; row++) {
			appender.BeginRow();
			for (size_t column = 0; column < columns; column++) {
				auto &cell = cells[row * columns + column];
				switch (cell.kind) {
				case 1:
					appender.Append(string_t(cell.text, static_cast<uint32_t>(cell.bytes)));
					break;
				case 2:
					appender.Append<int64_t>(cell.number);
					break;
				case 3:
					appender.Append(timestamp_t(cell.number * 1000));
					break;
				default:
					appender.Append(nullptr);
				}
			}
			appender.EndRow();
		}
		appender.Close();
	});
}

int aico_duckdb_ask(void *handle, const char *sql, size_t bytes, aico_row take, void *rows, void *to, aico_tell tell) {
	return Guarded(to, tell, [&]() {
		auto &connection = *static_cast<Database *>(handle)->connection;
		auto prepared = Question(connection, string(sql, bytes));
		vector<Value> none;
		auto result = prepared->Execute(none, true);
		if (result->HasError()) {
			result->ThrowError();
		}
		idx_t columns = result->ColumnCount();
		vector<string> texts(columns);
		vector<aico_cell> cells(columns);
		auto put = [&](idx_t column, string text, uint8_t kind) {
			texts[column] = std::move(text);
			cells[column] = {texts[column].data(), texts[column].size(), 0, kind};
		};
		for (idx_t column = 0; column < columns; column++) {
			put(column, result->names[column], 0);
		}
		take(rows, 0, cells.data(), columns);
		for (idx_t column = 0; column < columns; column++) {
			put(column, result->types[column].ToString(), Kind(result->types[column]));
		}
		take(rows, 1, cells.data(), columns);
		while (auto chunk = result->Fetch()) {
			for (idx_t row = 0; row < chunk->size(); row++) {
				for (idx_t column = 0; column < columns; column++) {
					auto value = chunk->GetValue(column, row);
					if (value.IsNull()) {
						cells[column] = {nullptr, 0, 0, 0};
					} else {
						put(column, value.ToString(), 0);
					}
				}
				if (take(rows, 2, cells.data(), columns) != 0) {
					return;
				}
			}
		}
		if (result->HasError()) {
			result->ThrowError();
		}
	});
}

// May be called while another thread asks.
void aico_duckdb_interrupt(void *handle) {
	try {
		static_cast<Database *>(handle)->connection->Interrupt();
	} catch (...) {
	}
}
}
