//! What a message grows by.

use std::io::Write;

use rustls::crypto::aws_lc_rs::kx_group;

use crate::handshake::{Noise, Tls};
use crate::people::{Pair, Result};
use crate::report::Report;

const MESSAGE: [u8; 1000] = [5; 1000];
/// A u32 before each record.
const STREAM_LENGTH_BYTES: usize = 4;
/// Before each Noise message; the Noise specification leaves it to the application and shows this one.
const NOISE_LENGTH_BYTES: usize = 2;

pub fn run() -> Result<Report> {
    let row = |name: &str, bytes: usize, source: &str| vec![name.to_owned(), bytes.to_string(), source.to_owned()];
    let rows = [
        row("ours, as `docs/spec/channel.md` has it", ours()?, "measured"),
        row("ours on a byte stream, with the length before it", ours()? + STREAM_LENGTH_BYTES, "measured"),
        row("TLS 1.3 record (rustls)", tls()?, "measured"),
        row("Noise message, with its length (snow)", noise()? + NOISE_LENGTH_BYTES, "measured"),
        row("CurveZMQ MESSAGE command", 33, "RFC 26/CURVEZMQ: 1 + 7 + 8 nonce, 16 tag, 1 flags"),
        row("CurveZMQ in its ZMTP frame", 35, "RFC 23/ZMTP: 2 more, from 256 bytes on 9 more"),
        row("what this project first asked for", 48, "header, nonce, tag"),
    ];
    let mut report = Report::default();
    report.table(&["added to a message", "bytes", "source"], &rows);
    Ok(report)
}

fn ours() -> Result<usize> {
    let (mut client, _, _) = Pair::new()?.shake_hands(false)?;
    let mut frame = Vec::new();
    client.sealer.seal(&[&MESSAGE], &mut frame)?;
    Ok(frame.len() - MESSAGE.len())
}

fn tls() -> Result<usize> {
    let mut client = Tls::new(kx_group::X25519, None)?.shake_hands()?.client;
    let mut wire = Vec::new();
    client.writer().write_all(&MESSAGE)?;
    client.write_tls(&mut wire)?;
    Ok(wire.len() - MESSAGE.len())
}

fn noise() -> Result<usize> {
    let (mut initiator, _, _) = Noise::new()?.shake_hands()?;
    Ok(initiator.write_message(&MESSAGE, &mut [0; 2048])? - MESSAGE.len())
}
