//! What the sealing costs: the same work by RocksDB with plain files and through this crate, in turn, in one process. `./dev bench
//! store` runs it and reads its lines: `figure`, name, nanoseconds sealed and plain, with tabs between.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement")]

use std::time::{Duration, Instant};

use aico_ffi_rocksdb::{Entry, Limits, Memory};
use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, IteratorMode, Options, WriteBatch, WriteOptions};

const ROUNDS: u32 = 6;
const ENTRIES: u32 = 200_000;
const BATCH: u32 = 500;
const READS: u32 = 50_000;
const SYNCED: u32 = 500;

fn key(number: u32) -> [u8; 8] {
    u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()
}

fn value(number: u32) -> Vec<u8> {
    (0..200_u32).map(|at| (number.wrapping_mul(31).wrapping_add(at.wrapping_mul(at))).to_le_bytes()[0]).collect()
}

fn timed(action: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    action();
    begun.elapsed()
}

fn sealed() -> [Duration; 4] {
    let folder = tempfile::tempdir().unwrap();
    let memory = Memory::open(folder.path(), &[1; 32], &Limits::default()).unwrap();
    let insert = timed(|| {
        for batch in 0..ENTRIES / BATCH {
            let numbers = batch * BATCH..(batch + 1) * BATCH;
            let entry = |n| Entry { key: key(n).to_vec(), value: value(n), expires_ms: None };
            memory.put_all(&numbers.map(entry).collect::<Vec<_>>()).unwrap();
        }
    });
    memory.compact(0).unwrap();
    let read = timed(|| {
        for number in 0..READS {
            assert!(memory.get(&key(number * 7919 % ENTRIES), 0).unwrap().is_some());
        }
    });
    let scan = timed(|| {
        let mut count = 0;
        memory
            .for_each(0, |_| {
                count += 1;
                Ok::<_, aico_ffi_rocksdb::Error>(())
            })
            .unwrap();
        assert_eq!(count, ENTRIES);
    });
    let synced = timed(|| (0..SYNCED).for_each(|n| memory.put(&key(n), &value(n), None).unwrap()));
    [insert, read, scan, synced]
}

fn plain() -> [Duration; 4] {
    let folder = tempfile::tempdir().unwrap();
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&Cache::new_lru_cache(Limits::default().cache_bytes));
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
    tables.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&tables);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(Limits::default().write_buffer_bytes);
    options.set_max_background_jobs(1);
    let db = DB::open(&options, folder.path()).unwrap();
    let mut sync = WriteOptions::default();
    sync.set_sync(true);
    let insert = timed(|| {
        for batch in 0..ENTRIES / BATCH {
            let mut writes = WriteBatch::default();
            (batch * BATCH..(batch + 1) * BATCH).for_each(|n| writes.put(key(n), value(n)));
            db.write_opt(writes, &sync).unwrap();
        }
    });
    db.compact_range::<&[u8], &[u8]>(None, None);
    let read = timed(|| {
        for number in 0..READS {
            assert!(db.get(key(number * 7919 % ENTRIES)).unwrap().is_some());
        }
    });
    let scan = timed(|| assert_eq!(db.iterator(IteratorMode::Start).count(), ENTRIES as usize));
    let synced = timed(|| (0..SYNCED).for_each(|n| db.put_opt(key(n), value(n), &sync).unwrap()));
    [insert, read, scan, synced]
}

fn main() {
    let names = ["bulk insert, synced batches of 500", "point read, 8 MiB cache", "scan", "one synced write"];
    let each = [1, READS, 1, SYNCED];
    for round in 0..ROUNDS {
        let (sealed, plain) = if round % 2 == 0 {
            let sealed = sealed();
            (sealed, plain())
        } else {
            let plain = plain();
            (sealed(), plain)
        };
        for (((name, each), sealed), plain) in names.iter().zip(each).zip(sealed).zip(plain) {
            println!("figure\t{name}\t{}\t{}", (sealed / each).as_nanos(), (plain / each).as_nanos());
        }
    }
}
