//! The owner in front of the terminal: passwords, typed words, and asking again once they are given
//! (`docs/manual/cli.md`, Passwords).

use std::collections::VecDeque;
use std::io::{IsTerminal, Read};
use std::path::Path;

use aico_net::{Client, Error as NetError};
use aico_proto::message::{AuthAnswer, DoneAnswer, FailureCode, Proof, Request, Sensitive};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::ui;

/// Longest password file in bytes.
const MAX_FILE_BYTES: u64 = 16 * 1024;
/// How often a wrong password may be typed again.
const TRIES: usize = 3;

/// Where the owner's words come from: a file, line by line, or the terminal.
#[derive(Debug, Default)]
pub(crate) struct Owner {
    lines: Option<VecDeque<Sensitive>>,
}

impl Owner {
    /// Passwords from `file` if there is one; `-` is standard input, refused where `stdin_is_data`.
    pub(crate) fn new(file: Option<&Path>, stdin_is_data: bool) -> Result<Self, Error> {
        let Some(file) = file else { return Ok(Self::default()) };
        let mut text = Zeroizing::new(String::new());
        if file == Path::new("-") {
            if stdin_is_data {
                let text = "standard input is the data already; give the password in a file: `--password-file FILE`";
                return Err(Error::Usage(text.to_owned()));
            }
            read(std::io::stdin().lock(), &mut text).map_err(|error| Error::io("read the password", error))?;
        } else {
            let opened = std::fs::File::open(file).and_then(|opened| read(opened, &mut text));
            opened.map_err(|error| Error::io(format!("read the password from {}", file.display()), error))?;
        }
        let lines = text.lines().map(|line| Sensitive::new(line.to_owned())).collect();
        Ok(Self { lines: Some(lines) })
    }

    /// Whether there is a password file.
    pub(crate) fn has_file(&self) -> bool {
        self.lines.is_some()
    }

    /// Whether there is a password file, or somebody at a terminal.
    pub(crate) fn can_be_asked(&self) -> bool {
        self.lines.is_some() || self.has_terminal()
    }

    /// Whether somebody sits at a terminal.
    pub(crate) fn has_terminal(&self) -> bool {
        std::io::stdin().is_terminal()
    }

    /// The next password: a line of the file, or typed after `prompt`.
    pub(crate) fn password(&mut self, prompt: &str) -> Result<Sensitive, Error> {
        match &mut self.lines {
            Some(lines) => lines.pop_front().filter(|line| !line.expose().is_empty()).ok_or_else(|| {
                Error::Usage("the password file has too few lines (one password a line, the old one first)".to_owned())
            }),
            None if std::io::stdin().is_terminal() => typed(prompt),
            None => Err(Error::NoTerminal("a password")),
        }
    }

    /// A new password, typed twice; a file has it once.
    pub(crate) fn new_password(&mut self) -> Result<Sensitive, Error> {
        let first = self.password("New password: ")?;
        if self.lines.is_none() && typed("The same again: ")? != first {
            return Err(Error::Usage("the two are not the same; nothing was changed".to_owned()));
        }
        if first.expose().chars().count() < 8 {
            ui::error_line("warning: a password of fewer than 8 characters is soon guessed by whoever has a copy");
        }
        Ok(first)
    }

    /// Asks for something; where the backend wants to know that the owner is there, shows it and asks again. `word` is
    /// what has to be typed before there is a password.
    pub(crate) async fn ask<A: DeserializeOwned>(
        &mut self,
        client: &mut Client,
        request: &Request,
        word: &str,
    ) -> Result<A, Error> {
        match client.ask(request).await {
            Err(error) => {
                self.show_presence(client, error, word).await?;
                Ok(client.ask(request).await?)
            }
            Ok(answer) => Ok(answer),
        }
    }

    /// Does what a refused request asks for, or gives the refusal back.
    pub(crate) async fn show_presence(
        &mut self,
        client: &mut Client,
        refused: NetError,
        word: &str,
    ) -> Result<(), Error> {
        match refused.failure_code() {
            Some(FailureCode::Authenticate) if self.can_be_asked() => self.authenticate(client).await,
            Some(FailureCode::Confirm) if self.has_terminal() => confirm(client, word).await,
            _ => Err(refused.into()),
        }
    }

    /// Gives the password; on a terminal that opens a session, and a wrong one may be typed again.
    pub(crate) async fn authenticate(&mut self, client: &mut Client) -> Result<(), Error> {
        let keep = self.lines.is_none();
        for left in (0..TRIES).rev() {
            let proof = Proof::Password(self.password("Password: ")?);
            match client.ask::<AuthAnswer>(&Request::Auth { proof, keep }).await {
                Err(error) if keep && left > 0 && error.failure_code() == Some(FailureCode::WrongProof) => {
                    ui::error_line(&error.to_string());
                }
                answered => return Ok(answered.map(drop)?),
            }
        }
        Ok(())
    }
}

/// The typed word that stands for the owner while there is no password.
async fn confirm(client: &mut Client, word: &str) -> Result<(), Error> {
    confirm_locally(word)?;
    Ok(client.ask::<DoneAnswer>(&Request::Confirm {}).await.map(drop)?)
}

/// Has the owner type a word.
pub(crate) fn confirm_locally(word: &str) -> Result<(), Error> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::NoTerminal("a typed word"));
    }
    ui::prompt(&format!("Type `{word}` to go on: "));
    if line()?.trim() == word { Ok(()) } else { Err(Error::Usage("that was not it; nothing was changed".to_owned())) }
}

/// A line from the terminal.
pub(crate) fn line() -> Result<String, Error> {
    let mut text = String::new();
    std::io::stdin().read_line(&mut text).map_err(|error| Error::io("read from the terminal", error))?;
    Ok(text)
}

fn typed(prompt: &str) -> Result<Sensitive, Error> {
    let text = rpassword::prompt_password(prompt).map_err(|error| Error::io("read the password", error))?;
    Ok(Sensitive::new(text))
}

fn read(from: impl Read, text: &mut Zeroizing<String>) -> std::io::Result<()> {
    // No reallocation that would leave a copy behind.
    text.reserve(MAX_FILE_BYTES as usize + 1);
    from.take(MAX_FILE_BYTES + 1).read_to_string(text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "it has more than 16 KiB"));
    }
    Ok(())
}
