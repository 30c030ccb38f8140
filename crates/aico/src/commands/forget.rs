//! `aico forget`: what is forgotten is gone for whoever has the key, too.

use aico_proto::message::{ForgetAnswer, Request};

use crate::args::ForgetCommand;
use crate::commands::finish;
use crate::error::Error;
use crate::owner::Owner;
use crate::places::connect;
use crate::ui;

pub(crate) async fn forget(command: ForgetCommand, mut owner: Owner) -> Result<(), Error> {
    let (prefix, what) = match command {
        ForgetCommand::Conversation { id } => (format!("conversations/{id}/"), format!("the conversation {id}")),
        ForgetCommand::Category { name } if !name.contains('/') => (format!("{name}/"), format!("the category {name}")),
        ForgetCommand::Category { .. } => {
            let text = "a category has no slash; `aico data rm` removes a single value";
            return Err(Error::Usage(text.to_owned()));
        }
        ForgetCommand::Space => (String::new(), "everything that was stored".to_owned()),
    };
    let mut client = connect().await?;
    let done: ForgetAnswer = owner.ask(&mut client, &Request::DataForget { prefix }, "forget").await?;
    let values = if done.values == 1 { "1 value".to_owned() } else { format!("{} values", done.values) };
    ui::line(&format!("{} is forgotten: {values}, and the keys that opened them", ui::printable(&what)));
    finish(client).await
}
