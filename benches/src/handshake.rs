//! One mutual handshake, both sides, without anything between them.

use std::sync::Arc;

use aico_crypto::{EncapsulationKey, EphemeralSecret, IdentitySecret, KemSecret, OsRandom, SignatureLabel};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ED25519};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection, SupportedCipherSuite,
};

use crate::people::{Pair, Result};
use crate::report::{Report, time};
use crate::timing::{Clock, Side, in_turn};

const ROUNDS: usize = 150;
pub const NOISE: &str = "Noise_XX_25519_ChaChaPoly_BLAKE2b";

pub fn run() -> Result<Report> {
    let (mut pair, mut other) = (Pair::new()?, Pair::new()?);
    let (hybrid, classical) = (Tls::new(kx_group::X25519MLKEM768, None)?, Tls::new(kx_group::X25519, None)?);
    let chacha = Tls::new(kx_group::X25519MLKEM768, Some(TLS13_CHACHA20_POLY1305_SHA256))?;
    let noise = Noise::new()?;
    let mut sides = [
        Side::new("ours, hybrid", || drop(pair.shake_hands(true).expect("shakes hands"))),
        Side::new("ours, classical", || drop(other.shake_hands(false).expect("shakes hands"))),
        Side::new("TLS 1.3, X25519MLKEM768", || drop(hybrid.shake_hands().expect("shakes hands"))),
        Side::new("TLS 1.3, X25519", || drop(classical.shake_hands().expect("shakes hands"))),
        Side::new("TLS 1.3, X25519MLKEM768, ChaCha20-Poly1305", || drop(chacha.shake_hands().expect("shakes hands"))),
        Side::new("Noise XX (snow)", || drop(noise.shake_hands().expect("shakes hands"))),
    ];
    let measured = in_turn(Clock::Thread, ROUNDS, &mut sides);

    let bytes = [
        Pair::new()?.shake_hands(true)?.2.iter().sum(),
        Pair::new()?.shake_hands(false)?.2.iter().sum(),
        hybrid.shake_hands()?.bytes,
        classical.shake_hands()?.bytes,
        chacha.shake_hands()?.bytes,
        noise.shake_hands()?.2,
    ];
    let mut report = Report::default();
    let rows = measured.names().zip(bytes).map(|((side, name), bytes)| {
        let part = |other| measured.ratio(side, other).to_string();
        vec![name.to_owned(), time(measured.nanos(side).median), part(2), part(4), part(3), bytes.to_string()]
    });
    let head =
        ["both sides together", "CPU", "of hybrid TLS", "of it with ChaCha20", "of classical TLS", "bytes on the wire"];
    report.table(&head, &rows.collect::<Vec<_>>());
    report.line("What our hybrid handshake consists of, each part by itself:");
    report.table(&["both sides together", "CPU"], &parts()?);
    for (other, name) in [(2, "TLS 1.3, X25519MLKEM768"), (4, "the same with ChaCha20-Poly1305")] {
        report.at_most(&format!("ours, hybrid / {name}"), measured.ratio(0, other), 0.65, "");
    }
    Ok(report)
}

/// The arithmetic of our handshake, without the rest.
fn parts() -> Result<Vec<Vec<String>>> {
    let x25519 = || {
        let make = |seed| EphemeralSecret::hazmat_from_bytes(&[seed; 32]).expect("a key");
        let (mine, theirs) = (make(1), make(2));
        let (my_key, their_key) = (*mine.public(), *theirs.public());
        mine.agree_as_initiator(&their_key).expect("agrees");
        theirs.agree_as_responder(&my_key).expect("agrees");
    };
    let (me, transcript) = (IdentitySecret::make(&OsRandom)?, [5; 64]);
    let ed25519 = || {
        for label in [SignatureLabel::INITIATOR, SignatureLabel::RESPONDER] {
            let signature = me.sign(label, &transcript).expect("signs");
            me.public().verify(label, &transcript, &signature).expect("verifies");
        }
    };
    let ml_kem = || {
        let secret = KemSecret::make().expect("a key");
        let sealed = EncapsulationKey::parse(secret.public()).and_then(|key| key.encapsulate()).expect("encapsulates");
        secret.decapsulate(&sealed.ciphertext).expect("decapsulates");
    };
    let mut sides = [
        Side::new("X25519: two keys made, two agreements", x25519),
        Side::new("Ed25519: two signatures, two verifications", ed25519),
        Side::new("ML-KEM-768: a key made, encapsulated, decapsulated", ml_kem),
    ];
    let measured = in_turn(Clock::Thread, ROUNDS / 3, &mut sides);
    Ok(measured.names().map(|(side, name)| vec![name.to_owned(), time(measured.nanos(side).median)]).collect())
}

/// TLS 1.3 with certificates on both sides, no resumption.
pub struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// The client's end of a finished handshake, and what went over the wire.
pub struct Shaken {
    pub client: ClientConnection,
    pub bytes: usize,
}

impl Tls {
    /// With one key exchange, and with one cipher suite or what rustls takes by itself.
    pub fn new(group: &'static dyn SupportedKxGroup, suite: Option<SupportedCipherSuite>) -> Result<Self> {
        let mut provider = CryptoProvider { kx_groups: vec![group], ..default_provider() };
        if let Some(suite) = suite {
            provider.cipher_suites = vec![suite];
        }
        let provider = Arc::new(provider);
        let authority = Authority::new()?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate.clone())?;
        let roots = Arc::new(roots);
        let verifies_client = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let verifies_server = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build()?;

        let (chain, key) = authority.issue("backend")?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifies_client)
            .with_single_cert(chain, key)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;

        let (chain, key) = authority.issue("cli")?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_webpki_verifier(verifies_server)
            .with_client_auth_cert(chain, key)?;
        client.resumption = Resumption::disabled();
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }

    pub fn shake_hands(&self) -> Result<Shaken> {
        let mut client = ClientConnection::new(self.client.clone(), ServerName::try_from("backend")?)?;
        let mut server = ServerConnection::new(self.server.clone())?;
        let (mut wire, mut bytes) = (Vec::new(), 0);
        while client.is_handshaking() || server.is_handshaking() {
            wire.clear();
            while client.wants_write() {
                bytes += client.write_tls(&mut wire)?;
            }
            feed(&wire, |rest| Ok(server.read_tls(rest)?))?;
            server.process_new_packets()?;
            wire.clear();
            while server.wants_write() {
                bytes += server.write_tls(&mut wire)?;
            }
            feed(&wire, |rest| Ok(client.read_tls(rest)?))?;
            client.process_new_packets()?;
        }
        let known = client.peer_certificates().is_some() && server.peer_certificates().is_some();
        let full = client.handshake_kind() == Some(HandshakeKind::Full);
        if known && full { Ok(Shaken { client, bytes }) } else { Err("TLS was not mutual and whole".into()) }
    }
}

fn feed(mut wire: &[u8], mut take: impl FnMut(&mut &[u8]) -> Result<usize>) -> Result<()> {
    while !wire.is_empty() {
        take(&mut wire)?;
    }
    Ok(())
}

/// Signs the certificates of both sides: one step from the root, the shortest chain there is.
struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    fn issue(&self, name: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::try_from(key.serialize_der())?;
        Ok((vec![certificate.der().clone()], key))
    }
}

/// Noise XX: both sides show their static key in the handshake.
pub struct Noise {
    keys: [snow::Keypair; 2],
}

impl Noise {
    pub fn new() -> Result<Self> {
        let key = || snow::Builder::new(NOISE.parse()?).generate_keypair();
        Ok(Self { keys: [key()?, key()?] })
    }

    /// Both ends, and the bytes of the three messages.
    pub fn shake_hands(&self) -> Result<(snow::TransportState, snow::TransportState, usize)> {
        let [mine, theirs] = &self.keys;
        let builder = |key: &'static str| -> Result<_> { Ok(snow::Builder::new(key.parse()?)) };
        let mut initiator = builder(NOISE)?.local_private_key(&mine.private)?.build_initiator()?;
        let mut responder = builder(NOISE)?.local_private_key(&theirs.private)?.build_responder()?;
        let (mut message, mut payload, mut bytes) = ([0; 1024], [0; 1024], 0);
        while !(initiator.is_handshake_finished() && responder.is_handshake_finished()) {
            let (from, to) = if initiator.is_my_turn() {
                (&mut initiator, &mut responder)
            } else {
                (&mut responder, &mut initiator)
            };
            let length = from.write_message(&[], &mut message)?;
            to.read_message(&message[..length], &mut payload)?;
            bytes += length;
        }
        Ok((initiator.into_transport_mode()?, responder.into_transport_mode()?, bytes))
    }
}
