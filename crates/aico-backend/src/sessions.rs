//! The owner's presence: sessions in memory, bound to a client and its terminal, and what one connection has shown
//! (`docs/spec/requests.md`, Presence).

use std::collections::HashMap;
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aico_crypto::PublicKey;
use aico_net::{Origin, PeerProcess};
use aico_policy::{Presence, Principal};

/// From the last use.
const SPAN: Duration = Duration::from_secs(30 * 60);
/// How long one connection counts as freshly authenticated.
const FRESH: Duration = Duration::from_secs(60);
/// Sessions at a time.
const MAX_SESSIONS: usize = 64;

/// A terminal session of the operating system, as `sudo` binds to it: its leader, and when that began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Terminal {
    user: u32,
    leader: i32,
    began: u64,
}

impl Terminal {
    /// The terminal session of a process; `None` where it has no terminal or has ended.
    pub(crate) fn of(process: PeerProcess) -> Option<Self> {
        let own = Stat::of(process.pid)?;
        let leader = Stat::of(own.session)?;
        (own.terminal != 0).then_some(Self { user: process.uid, leader: own.session, began: leader.began })
    }
}

/// The fields of `/proc/PID/stat` (proc(5)) that say to which terminal session a process belongs.
struct Stat {
    session: i32,
    terminal: i32,
    began: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        if pid <= 0 {
            return None;
        }
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The second field is the program's name and may hold anything; the fields are counted behind its last bracket.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Self {
            session: field(6)?.parse().ok()?,
            terminal: field(7)?.parse().ok()?,
            began: field(22)?.parse().ok()?,
        })
    }
}

/// The owner's open sessions. They are in this memory alone and end with it.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<(PublicKey, Terminal), Instant>>);

impl Sessions {
    fn open(&self, client: PublicKey, terminal: Terminal) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, used| used.elapsed() < SPAN);
        if all.len() < MAX_SESSIONS {
            all.insert((client, terminal), Instant::now());
        }
    }

    /// Uses a session: it lasts from now.
    fn touch(&self, client: PublicKey, terminal: Terminal) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, used| used.elapsed() < SPAN);
        all.get_mut(&(client, terminal)).map(|used| *used = Instant::now()).is_some()
    }

    fn remaining(&self, client: PublicKey, terminal: Terminal) -> Option<Duration> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        SPAN.checked_sub(all.get(&(client, terminal))?.elapsed())
    }

    fn end(&self, client: PublicKey, terminal: Terminal) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&(client, terminal));
    }

    /// Ends every session: what opens the vault has changed.
    pub(crate) fn end_all(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Ends the sessions of one client.
    pub(crate) fn end_of(&self, client: &PublicKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(key, _), _| key != client);
    }
}

/// Who asks on one connection, and how they have shown that the owner is there.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) principal: Principal,
    process: Option<PeerProcess>,
    terminal: Option<Terminal>,
    authenticated: Option<Instant>,
    confirmed: Option<Instant>,
}

impl Caller {
    pub(crate) fn new(principal: Principal, origin: Origin) -> Self {
        let process = origin.process();
        Self { principal, process, terminal: process.and_then(Terminal::of), authenticated: None, confirmed: None }
    }

    /// The process that asks, where it came through the Unix socket.
    pub(crate) fn process(&self) -> Option<PeerProcess> {
        self.process
    }

    /// Whether somebody can sit there.
    pub(crate) fn has_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// How the owner has shown to be there. A session is used by this.
    pub(crate) fn presence(&self, sessions: &Sessions) -> Presence {
        let recent = |shown: Option<Instant>| shown.is_some_and(|at| at.elapsed() < FRESH);
        if recent(self.authenticated) {
            return Presence::Fresh;
        }
        let client = *self.principal.identity().key();
        if self.terminal.is_some_and(|terminal| sessions.touch(client, terminal)) {
            return Presence::Session;
        }
        if recent(self.confirmed) { Presence::Confirmed } else { Presence::Unknown }
    }

    /// The owner's proof was right. With `keep`, and a terminal, a session is open from now.
    pub(crate) fn authenticate(&mut self, sessions: &Sessions, keep: bool) -> bool {
        self.authenticated = Some(Instant::now());
        match self.terminal.filter(|_| keep) {
            Some(terminal) => {
                sessions.open(*self.principal.identity().key(), terminal);
                true
            }
            None => false,
        }
    }

    /// The owner has typed a word; false without a terminal.
    pub(crate) fn confirm(&mut self) -> bool {
        self.confirmed = self.terminal.map(|_| Instant::now());
        self.confirmed.is_some()
    }

    pub(crate) fn session_remaining(&self, sessions: &Sessions) -> Option<Duration> {
        sessions.remaining(*self.principal.identity().key(), self.terminal?)
    }

    pub(crate) fn end_session(&self, sessions: &Sessions) {
        if let Some(terminal) = self.terminal {
            sessions.end(*self.principal.identity().key(), terminal);
        }
    }
}

#[cfg(test)]
mod tests {
    use aico_crypto::{ComponentKind, Identity, IdentitySecret, Name, OsRandom};
    use aico_proto::LocalIdentity;

    use super::*;

    fn caller(terminal: Option<Terminal>) -> Caller {
        let secret = IdentitySecret::make(&OsRandom).unwrap();
        let identity = Identity::new(ComponentKind::Cli, *secret.public(), Name::parse("cli").unwrap());
        let principal = Principal::from_own_identity(&LocalIdentity::new(secret, identity).unwrap());
        Caller { principal, process: None, terminal, authenticated: None, confirmed: None }
    }

    fn at(leader: i32, began: u64) -> Terminal {
        Terminal { user: 1, leader, began }
    }

    /// The same client on another connection.
    fn again(caller: &Caller, terminal: Option<Terminal>) -> Caller {
        Caller { principal: caller.principal.clone(), process: None, terminal, authenticated: None, confirmed: None }
    }

    #[test]
    fn a_session_belongs_to_a_client_at_a_terminal() {
        let sessions = Sessions::default();
        let mut owner = caller(Some(at(10, 500)));
        assert_eq!(owner.presence(&sessions), Presence::Unknown);
        assert!(owner.authenticate(&sessions, true));
        assert_eq!(owner.presence(&sessions), Presence::Fresh);
        assert_eq!(again(&owner, Some(at(10, 500))).presence(&sessions), Presence::Session);
        for other in [None, Some(at(11, 500)), Some(at(10, 501))] {
            assert_eq!(again(&owner, other).presence(&sessions), Presence::Unknown, "{other:?}");
        }
        assert_eq!(caller(Some(at(10, 500))).presence(&sessions), Presence::Unknown, "another client's key");
        again(&owner, Some(at(10, 500))).end_session(&sessions);
        assert_eq!(again(&owner, Some(at(10, 500))).presence(&sessions), Presence::Unknown);
    }

    #[test]
    fn without_a_terminal_there_is_neither_session_nor_confirmation() {
        let sessions = Sessions::default();
        let mut script = caller(None);
        assert!(!script.authenticate(&sessions, true), "no session");
        assert_eq!(script.presence(&sessions), Presence::Fresh, "but this connection");
        let mut script = caller(None);
        assert!(!script.confirm());
        assert_eq!(script.presence(&sessions), Presence::Unknown);
        let mut person = caller(Some(at(1, 1)));
        assert!(person.confirm());
        assert_eq!(person.presence(&sessions), Presence::Confirmed);
    }

    #[test]
    fn a_session_and_a_fresh_proof_end_with_time() {
        let sessions = Sessions::default();
        let terminal = Some(at(10, 500));
        let mut owner = caller(terminal);
        owner.authenticate(&sessions, true);
        owner.authenticated = Instant::now().checked_sub(FRESH);
        assert_eq!(owner.presence(&sessions), Presence::Session, "the proof is old");
        let key = (*owner.principal.identity().key(), at(10, 500));
        *sessions.0.lock().unwrap().get_mut(&key).unwrap() = Instant::now().checked_sub(SPAN).unwrap();
        assert_eq!(owner.presence(&sessions), Presence::Unknown, "and now the session is");
    }

    #[test]
    fn a_programs_name_cannot_pretend_to_be_its_fields() {
        let line = "4711 (a) 1 2 (b) S 1 4711 4700 34816 4711 4194304 1 0 0 0 1 1 0 0 20 0 1 0 987654 1 1";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.session, stat.terminal, stat.began), (4700, 34816, 987_654));
        for bad in ["", ")", "1 (x", "1 (x) S 1", "1 (x) S a b c d e f g h i j k l m n o p q r s t"] {
            assert!(Stat::parse(bad).is_none());
        }
    }
}
