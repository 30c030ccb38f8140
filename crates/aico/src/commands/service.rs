//! The backend as a service of systemd (`docs/manual/service.md`).

mod credential;
mod error;
mod ground;
mod kind;
mod owner;
mod plan;
mod state;
mod unit;

use std::os::unix::net::UnixStream;
use std::path::Path;

use aico_vault::Places;

use crate::args::ServiceCommand;
use crate::error::Error;
use crate::places::places;
use crate::ui;

use credential::Credential;
pub(crate) use error::ServiceError;
use ground::{Ground, There};
use kind::Kind;
use owner::{Account, Owner};
use plan::{Plan, Step, useradd};
use unit::{SystemUnit, UserUnit};

/// Where the system unit's program lies: root's alone, so that no user's file runs as another user.
const PROGRAM: &str = "/usr/local/lib/aico/aico";
/// The library that the program looks for beside itself.
const LIBRARY: &str = "/usr/local/lib/aico/libduckdb.so";

pub(crate) fn service(command: ServiceCommand) -> Result<(), Error> {
    match command {
        ServiceCommand::Install { system: false, print, root, .. } => install_user(print, &Ground::new(root)),
        ServiceCommand::Install { system: true, owner, print, root } => {
            install_system(owner.as_deref(), print, &Ground::new(root))
        }
        ServiceCommand::Remove { system: false, root, .. } => {
            let ground = Ground::new(root);
            refuse_sudo(&ground)?;
            remove(&Kind::User, &ground)
        }
        ServiceCommand::Remove { system: true, owner, root } => {
            let ground = Ground::new(root);
            ground.needs_root()?;
            remove(&Kind::System(Owner::given_or_caller(owner.as_deref())?), &ground)
        }
        ServiceCommand::Status { json, root } => state::status(json, &Ground::new(root)),
    }
}

fn install_user(print: bool, ground: &Ground) -> Result<(), Error> {
    refuse_sudo(ground)?;
    let program = std::env::current_exe().map_err(|error| Error::io("find this program", error))?;
    let places = places()?;
    let text = UserUnit { program: &program, home: &places.home, key_dir: &places.key_dir }.text()?;
    let kind = Kind::User;
    let path = kind.unit_path()?;
    let there = ground.look(&path);
    let mut plan = Plan::new("the unit is written", kind.command(&["enable", "--now"]));
    plan.add(Step::File { path: path.clone(), text });
    plan.extend(kind.start(there.is_ours()));
    if print {
        plan.print();
        return Ok(());
    }
    there.must_not_be_foreign(&path)?;
    let held = !there.is_ours() && somebody_listens(&places);
    let done = plan.execute(ground)?;
    show(&[("unit", &path), ("data", &places.home), ("keys", &places.key_dir)]);
    if held {
        ui::line("A backend runs already: stop it with `aico down`, then `systemctl --user start aico.service`.");
    }
    done.confirm()?;
    ui::line("It starts when you log in; `loginctl enable-linger` lets it start at boot and stay when you log out.");
    ui::line("It does not protect from programs of your own user; `sudo aico service install --system` does.");
    Ok(())
}

fn install_system(owner: Option<&str>, print: bool, ground: &Ground) -> Result<(), Error> {
    if !print {
        ground.needs_root()?;
    }
    let owner = Owner::given_or_caller(owner)?;
    let account = Account::of(owner.as_str())?.ok_or_else(|| ServiceError::NoSuchUser(owner.to_string()))?;
    let kind = Kind::System(owner.clone());
    let path = kind.unit_path()?;
    let there = ground.look(&path);
    let own = owner.service_user();
    let mut plan = Plan::new("the unit is written", kind.command(&["enable", "--now"]));
    match Account::of(&own)? {
        None => plan.add(Step::Run(useradd(&owner))),
        Some(existing) => existing.must_be_for(&owner, &account)?,
    }
    for folder in [owner.data(), owner.keys()] {
        plan.add(Step::Folder { path: folder, mode: 0o700, user: Some(own.clone()) });
    }
    plan.add(Step::Folder { path: kind::folder_of(Path::new(PROGRAM)), mode: 0o755, user: None });
    plan.add(Step::Library(LIBRARY.into()));
    plan.add(Step::Program(PROGRAM.into()));
    let mut credential = Credential::look(&owner, ground);
    if print {
        credential.print();
    } else {
        there.must_not_be_foreign(&path)?;
        credential = credential.made(ground);
    }
    let (owner_uid, has_credential) = (account.uid, credential.is_some());
    let text = SystemUnit { program: Path::new(PROGRAM), owner: &owner, owner_uid, has_credential }.text()?;
    plan.add(Step::File { path: path.clone(), text });
    plan.extend(kind.start(there.is_ours()));
    if print {
        plan.print();
        return Ok(());
    }
    let done = plan.execute(ground)?;
    show(&[
        ("unit", &path),
        ("data", &owner.data()),
        ("keys", &owner.keys()),
        ("socket", &owner.run().join("aico.sock")),
    ]);
    ui::line(&format!("It runs as `{own}`, with a vault of its own: no other vault was moved or changed."));
    credential.tell();
    done.confirm()?;
    ui::line(&format!("Programs of `{owner}` find it by: export AICO_RUN_DIR={}", owner.run().display()));
    Ok(())
}

fn remove(kind: &Kind, ground: &Ground) -> Result<(), Error> {
    let path = kind.unit_path()?;
    let there = ground.look(&path);
    there.must_not_be_foreign(&path)?;
    let There::Ours(text) = &there else {
        ui::line(&format!("nothing to remove: there is no {}", ui::printable(&path.display().to_string())));
        return Ok(());
    };
    let mut plan = Plan::new("the unit is removed", kind.command(&["stop"]));
    plan.add(Step::Systemd(kind.systemctl(&["disable", "--now"])));
    plan.add(Step::Remove(kind.link()?));
    plan.add(Step::Remove(path.clone()));
    if matches!(kind, Kind::System(_)) && state::system_units(ground).len() == 1 {
        plan.add(Step::Remove(PROGRAM.into()));
        plan.add(Step::Remove(LIBRARY.into()));
        plan.add(Step::Remove(kind::folder_of(Path::new(PROGRAM))));
    }
    plan.add(Step::Systemd(kind.reload()));
    let done = plan.execute(ground)?;
    ui::line(&format!("removed {}", ui::printable(&path.display().to_string())));
    for (name, what) in [("AICO_HOME", "the vault stays in"), ("AICO_KEY_DIR", "its keys stay in")] {
        if let Some(folder) = unit::environment(text, name) {
            ui::line(&format!("{what} {}", ui::printable(&folder)));
        }
    }
    if let Kind::System(owner) = kind {
        ui::line(&format!("the user `{}` stays: the folders are its own", owner.service_user()));
        if let Credential::Kept(path) = Credential::look(owner, ground) {
            ui::line(&format!("the credential that opens the vault stays: {}", path.display()));
        }
    }
    done.confirm()
}

/// A service of the user's own, installed as root for somebody else, would lie in the wrong place or belong to root.
fn refuse_sudo(ground: &Ground) -> Result<(), Error> {
    let by_sudo = ground.is_real() && kind::is_root() && std::env::var_os("SUDO_USER").is_some();
    if by_sudo { Err(ServiceError::Sudo.into()) } else { Ok(()) }
}

fn somebody_listens(places: &Places) -> bool {
    UnixStream::connect(places.home.join("run").join(aico_net::SOCKET_NAME)).is_ok()
}

fn show(rows: &[(&str, &Path)]) {
    for (word, path) in rows {
        ui::line(&format!("{word:<8} {}", ui::printable(&path.display().to_string())));
    }
}
