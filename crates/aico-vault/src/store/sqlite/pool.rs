use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

/// Most connections that read at a time; the next one waits. More would only wait for the disk and the cores instead.
const MOST: usize = 8;
/// Most of them that are kept open.
pub(super) const IDLE: usize = 4;

/// The connections that read: few at a time.
#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
    free: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Connection>,
    out: usize,
    /// Connections of an earlier one are of a file that is not the database any more.
    generation: u64,
}

/// The right to use one connection.
pub(super) struct Place<'a> {
    pool: &'a Pool,
    generation: u64,
    idle: Option<Connection>,
}

impl Pool {
    /// Waits for a place.
    pub(super) fn wait(&self) -> Place<'_> {
        let waited = self.free.wait_while(self.lock(), |state| state.out >= MOST);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.out += 1;
        Place { pool: self, generation: state.generation, idle: state.idle.pop() }
    }

    /// Closes every connection, those in use when they come back.
    pub(super) fn renew(&self) {
        let mut state = self.lock();
        state.generation += 1;
        state.idle.clear();
    }

    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.lock().idle.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// A connection that is open already.
    pub(super) fn take(&mut self) -> Option<Connection> {
        self.idle.take()
    }

    /// Keeps a sound connection for the next one.
    pub(super) fn keep(mut self, connection: Connection) {
        self.idle = Some(connection);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.out -= 1;
        if let Some(connection) = self.idle.take()
            && state.generation == self.generation
            && state.idle.len() < IDLE
        {
            state.idle.push(connection);
        }
        self.pool.free.notify_one();
    }
}
