//! `aico service`: what it writes, what it asks systemd, and what it leaves alone. Nothing here touches the machine:
//! paths are below a folder of the test, and `systemctl` is a double that notes what it is asked.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::home::{Home, copy_program, files};

/// A user that every machine has, and its number.
const OWNER: &str = "nobody";

struct Machine {
    home: Home,
}

impl Machine {
    /// One whose `systemctl` says `answer` and succeeds, or fails if there is none.
    fn new(answer: Option<&str>) -> Self {
        let this = Self { home: Home::new() };
        let bin = this.home.root().join("bin");
        fs::create_dir(&bin).unwrap();
        let ends = answer.map_or("echo no bus >&2; exit 1".to_owned(), |answer| format!("echo {answer}"));
        let script = format!("#!/bin/sh\necho \"$@\" >> {}/asked\n{ends}\n", this.home.root().display());
        fs::write(bin.join("systemctl"), script).unwrap();
        fs::set_permissions(bin.join("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
        this
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.home.command(&[&["service"], args].concat());
        command.env("PATH", format!("{}:/usr/bin:/bin", self.home.root().join("bin").display()));
        command
    }

    fn run(&self, code: i32, args: &[&str]) -> String {
        said(code, self.command(args).output().unwrap())
    }

    /// Below a folder, as an image is made.
    fn run_in(&self, code: i32, args: &[&str]) -> String {
        let image = self.image();
        self.run(code, &[args, &["--root", image.to_str().unwrap()]].concat())
    }

    fn image(&self) -> PathBuf {
        self.home.root().join("image")
    }

    fn unit(&self) -> PathBuf {
        self.home.root().join("user/.config/systemd/user/aico.service")
    }

    /// What `systemctl` was asked since the last time.
    fn asked(&self) -> Vec<String> {
        let path = self.home.root().join("asked");
        let asked = fs::read_to_string(&path).unwrap_or_default();
        let _none = fs::remove_file(path);
        asked.lines().map(str::to_owned).collect()
    }
}

/// Both outputs of a program that ended with this code.
fn said(code: i32, output: Output) -> String {
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_users_unit_is_written_started_and_removed() {
    let machine = Machine::new(Some("ok"));
    let printed = machine.run(0, &["install"]);
    assert!(printed.contains("It starts when you log in"), "{printed}");
    assert_eq!(machine.asked(), ["--user daemon-reload", "--user enable --now aico.service"]);
    let text = fs::read_to_string(machine.unit()).unwrap();
    assert_eq!(mode(&machine.unit()), 0o644);
    let program = format!("ExecStart=\"{}\" up", env!("CARGO_BIN_EXE_aico"));
    let home = format!("Environment=\"AICO_HOME={}\"", machine.home.data().display());
    let keys = format!("Environment=\"AICO_KEY_DIR={}\"", machine.home.keys().display());
    for line in [program.as_str(), &home, &keys, "Restart=on-failure", "WantedBy=default.target"] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }

    machine.run(0, &["install"]);
    let anew = ["--user daemon-reload", "--user enable aico.service", "--user restart aico.service"];
    assert_eq!(machine.asked(), anew, "one that runs already is started anew");

    let link = machine.unit().with_file_name("default.target.wants/aico.service");
    fs::create_dir(link.parent().unwrap()).unwrap();
    symlink("../aico.service", &link).unwrap();
    let printed = machine.run(0, &["remove"]);
    assert!(printed.contains("the vault stays in") && printed.contains(machine.home.data().to_str().unwrap()));
    assert_eq!(machine.asked(), ["--user disable --now aico.service", "--user daemon-reload"]);
    assert_eq!(files(&machine.home.root().join("user")), Vec::<PathBuf>::new());
    assert!(fs::symlink_metadata(&link).is_err(), "no link is left");
    assert!(machine.run(0, &["remove"]).contains("nothing to remove"));
    assert_eq!(machine.asked(), Vec::<String>::new());
}

#[test]
fn xdg_config_home_counts_as_it_does_for_systemd() {
    let machine = Machine::new(Some("ok"));
    let config = machine.home.root().join("config");
    said(0, machine.command(&["install"]).env("XDG_CONFIG_HOME", &config).output().unwrap());
    assert!(config.join("systemd/user/aico.service").is_file());
    said(0, machine.command(&["install"]).env("XDG_CONFIG_HOME", "relative").output().unwrap());
    assert!(machine.unit().is_file());
}

#[test]
fn without_systemd_the_unit_is_written_and_what_is_missing_is_said() {
    let machine = Machine::new(None);
    let printed = machine.run(1, &["install"]);
    assert!(machine.unit().is_file());
    for word in ["the unit is written, but `systemctl --user daemon-reload` did not work: no bus", "hint: "] {
        assert!(printed.contains(word), "{word} in {printed}");
    }
    assert!(printed.contains("`systemctl --user enable --now aico.service` finishes it"), "{printed}");
    assert!(!printed.contains("It starts when"), "{printed}");
    assert_eq!(machine.asked(), ["--user daemon-reload"], "it is not asked again");
    let printed = machine.run(1, &["remove"]);
    assert!(printed.contains("the unit is removed, but") && !machine.unit().exists(), "{printed}");

    fs::remove_file(machine.home.root().join("bin/systemctl")).unwrap();
    let mut command = machine.command(&["install"]);
    let printed = said(1, command.env("PATH", machine.home.root().join("bin")).output().unwrap());
    assert!(printed.contains("did not work") && machine.unit().is_file(), "{printed}");
}

#[test]
fn print_does_nothing() {
    let machine = Machine::new(Some("ok"));
    let printed = machine.run(0, &["install", "--print"]);
    assert!(printed.contains("[Service]") && printed.contains("# run: systemctl --user enable --now aico.service"));
    let printed = machine.run_in(0, &["install", "--print", "--system", "--owner", OWNER]);
    assert!(printed.contains("# run: useradd --system") && printed.contains("User=aico-nobody"), "{printed}");
    assert_eq!(machine.asked(), Vec::<String>::new());
    assert_eq!(files(machine.home.root()), [machine.home.root().join("bin/systemctl")]);
}

#[test]
fn a_unit_that_is_not_ours_is_left_alone() {
    let machine = Machine::new(Some("ok"));
    let unit = machine.unit();
    fs::create_dir_all(unit.parent().unwrap()).unwrap();
    let elsewhere = machine.home.root().join("elsewhere");
    machine.run(0, &["install"]);
    fs::rename(&unit, &elsewhere).unwrap();
    machine.asked();
    let ours = fs::read_to_string(&elsewhere).unwrap();
    let put: [&dyn Fn(); 6] = [
        &|| fs::write(&unit, "[Service]\nExecStart=/bin/true\n").unwrap(),
        &|| fs::write(&unit, "").unwrap(),
        &|| fs::write(&unit, [&[0xff], ours.as_bytes()].concat()).unwrap(),
        &|| fs::write(&unit, format!("{ours}{}", "#".repeat(70_000))).unwrap(),
        &|| symlink(&elsewhere, &unit).unwrap(),
        &|| fs::create_dir(&unit).unwrap(),
    ];
    for (n, put) in put.iter().enumerate() {
        put();
        let before = fs::read(&unit).ok();
        for args in [["install"], ["remove"]] {
            let printed = machine.run(1, &args);
            assert!(printed.contains("was not written by") && printed.contains("hint: "), "{n}: {printed}");
        }
        assert!(machine.run(0, &["status"]).contains("not installed"), "{n}");
        assert_eq!(fs::read(&unit).ok(), before, "{n}");
        let _is_a_folder = fs::remove_file(&unit).or_else(|_| fs::remove_dir(&unit));
    }
    assert_eq!(machine.asked(), Vec::<String>::new());
    assert_eq!(fs::read_to_string(elsewhere).unwrap(), ours);
}

#[test]
fn folders_that_cannot_stand_in_a_unit_are_refused() {
    let machine = Machine::new(Some("ok"));
    for bad in ["/a\nExecStartPre=/bin/sh -c id", "/a\u{1b}[2J", "/a\r"] {
        let printed = said(2, machine.command(&["install"]).env("AICO_HOME", bad).output().unwrap());
        assert!(printed.contains("cannot stand in a unit") && !printed.contains('\u{1b}'), "{printed:?}");
    }
    assert!(!machine.unit().exists());
    assert_eq!(machine.asked(), Vec::<String>::new());
}

#[test]
fn status_says_what_is_there() {
    let machine = Machine::new(Some("active"));
    let json = |machine: &Machine| -> serde_json::Value {
        serde_json::from_str(&machine.run_in(0, &["status", "--json"])).unwrap()
    };
    let none = json(&machine);
    assert_eq!(none["installed"], false);
    assert!(none["hint"].as_str().unwrap().contains("aico service install"));
    machine.run_in(0, &["install"]);
    machine.run_in(0, &["install", "--system", "--owner", OWNER]);
    let both = json(&machine);
    assert_eq!(both["installed"], true);
    let (user, system) = (&both["services"][0], &both["services"][1]);
    assert_eq!((&user["kind"], &system["kind"]), (&"user".into(), &"system".into()));
    assert_eq!(user["data"], machine.home.data().to_str().unwrap());
    assert_eq!(system["owner"], OWNER);
    assert_eq!(system["unit"], "/etc/systemd/system/aico-nobody.service");
    assert_eq!(user["active"], "unknown", "an image has no systemd");
    assert_eq!(machine.asked(), Vec::<String>::new());

    machine.run(0, &["install"]);
    machine.asked();
    let shown = machine.run(0, &["status"]);
    assert!(shown.contains("active   active") && shown.contains("enabled  active"), "{shown}");
    assert_eq!(machine.asked(), ["--user is-enabled aico.service", "--user is-active aico.service"]);
    let silent = Machine::new(None);
    silent.run(1, &["install"]);
    assert!(silent.run(0, &["status"]).contains("active   unknown"));
}

#[test]
fn the_system_service_is_laid_out_and_removed_without_its_data() {
    let machine = Machine::new(Some("ok"));
    let image = machine.image();
    let install = ["install", "--system", "--owner", OWNER];
    for _ in 0..2 {
        let printed = machine.run_in(0, &install);
        assert!(printed.contains("export AICO_RUN_DIR=/run/aico-nobody"), "{printed}");
    }
    let (unit, program) = ("etc/systemd/system/aico-nobody.service", "usr/local/lib/aico/aico");
    let library = "usr/local/lib/aico/libduckdb.so";
    assert_eq!(files(&image), [image.join(unit), image.join(program), image.join(library)]);
    assert!(fs::read(image.join(library)).unwrap() == fs::read(crate::home::library().unwrap()).unwrap());
    // The copy runs with the library beside it, wherever the first one has gone.
    let alone = Command::new("/lib64/ld-linux-x86-64.so.2").arg("--list").arg(image.join(program)).env_clear().output();
    if let Ok(alone) = alone {
        let used = String::from_utf8_lossy(&alone.stdout).into_owned();
        assert!(used.contains(image.join(library).to_str().unwrap()), "{used}");
    }
    assert!(fs::read(image.join(program)).unwrap() == fs::read(env!("CARGO_BIN_EXE_aico")).unwrap());
    for (path, wanted) in [
        (unit, 0o644),
        (program, 0o755),
        (library, 0o644),
        ("usr/local/lib/aico", 0o755),
        ("var/lib/aico-nobody", 0o700),
        ("var/lib/aico-nobody-keys", 0o700),
    ] {
        assert_eq!(mode(&image.join(path)), wanted, "{path}");
    }
    let text = fs::read_to_string(image.join(unit)).unwrap();
    assert!(text.contains("ExecStart=\"/usr/local/lib/aico/aico\" up\nUser=aico-nobody\n"), "{text}");
    assert!(text.contains("Environment=\"AICO_OWNER_UID=65534\""), "{text}");

    let daemon = ["--system", "--owner", "daemon"];
    machine.run_in(0, &[&["install"], &daemon[..]].concat());
    fs::write(image.join("var/lib/aico-nobody/vault.aico"), "kept").unwrap();
    let printed = machine.run_in(0, &["remove", "--system", "--owner", OWNER]);
    assert!(printed.contains("the vault stays in /var/lib/aico-nobody\n"), "{printed}");
    assert!(printed.contains("the user `aico-nobody` stays"), "{printed}");
    assert!(!image.join(unit).exists() && image.join("var/lib/aico-nobody/vault.aico").is_file());
    assert!(image.join(program).is_file(), "the other one runs it");
    machine.run_in(0, &[&["remove"], &daemon[..]].concat());
    assert!(!image.join("usr/local/lib/aico").exists(), "nobody runs it any more");
}

/// What a fake `systemd-creds` does with what it was given; its words and its input are noted.
const ENCRYPTS: &str = "echo sealed; tr A-Za-z0-9 N-ZA-Mn-za-m5-90-4 < $HERE/input";

/// Installs and removes as on the machine itself: in a file system of its own, in which `/etc`, `/var/lib` and
/// `/usr/local/lib` are folders of the test, and root finds doubles first. `None` where no such thing can be made.
struct Namespace {
    machine: Machine,
}

impl Namespace {
    fn new(systemd_creds: Option<&str>) -> Option<Self> {
        let this = Self { machine: Machine::new(Some("ok")) };
        let here = this.machine.home.root().display();
        for folder in ["etc/systemd/system", "var/lib/systemd", "usr/local/lib"] {
            fs::create_dir_all(this.machine.image().join(folder)).unwrap();
        }
        fs::write(this.machine.image().join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
        // Only root's own number is sure to be there: the user that is made has it, and is made anew by every installation.
        let getent = format!(
            "case $2 in {OWNER}) echo {OWNER}:x:65534:65534:n:/:/usr/sbin/nologin;; *) [ -e {here}/made ] && echo $2:x:0:0::/:/;; esac || exit 2"
        );
        this.double("getent", &getent);
        this.double("useradd", &format!("touch {here}/made"));
        if let Some(does) = systemd_creds {
            this.double_creds(does);
        }
        let can = this.shell("true").output().is_ok_and(|probe| probe.status.success());
        can.then_some(this)
    }

    fn double(&self, name: &str, does: &str) {
        let path = self.machine.home.root().join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{does}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn double_creds(&self, does: &str) {
        let here = self.machine.home.root().display();
        let notes = format!("HERE={here}; echo \"$@\" >> $HERE/words; cat > $HERE/input; env > $HERE/environment");
        self.double("systemd-creds", &format!("{notes}\n{does}"));
    }

    /// Runs a script in there, with `$AICO` as the program. What is mounted goes with it.
    fn shell(&self, script: &str) -> Command {
        let (image, root) = (self.machine.image(), self.machine.home.root());
        let mounts = format!(
            "mount --bind {0}/etc /etc; mount --bind {0}/var/lib /var/lib; mount --bind {0}/usr/local/lib /usr/local/lib; \
             mount --bind {1}/bin /usr/sbin",
            image.display(),
            root.display()
        );
        let mut command = Command::new("unshare");
        let ids: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
        command.args(ids).args(["--mount", "--", "sh", "-ec", &format!("{mounts}\n{script}")]);
        command.env_remove("SUDO_USER").env("AICO", env!("CARGO_BIN_EXE_aico")).current_dir("/").stdin(Stdio::null());
        command
    }

    fn run(&self, args: &str) -> String {
        said(0, self.shell(&format!("$AICO service {args}")).output().unwrap())
    }

    fn install(&self) -> String {
        let _first_time = fs::remove_file(self.machine.home.root().join("made"));
        self.run(&format!("install --system --owner {OWNER}"))
    }

    fn credential(&self) -> PathBuf {
        self.machine.image().join("etc/credstore.encrypted/aico-nobody")
    }

    fn unit(&self) -> String {
        fs::read_to_string(self.machine.image().join("etc/systemd/system/aico-nobody.service")).unwrap()
    }

    fn note(&self, name: &str) -> String {
        fs::read_to_string(self.machine.home.root().join(name)).unwrap_or_default()
    }
}

const NO_NAMESPACE: &str = "skipped: no file system of its own can be made here (`unshare --mount`)";
const LOADS: &str = "\nLoadCredentialEncrypted=aico-slot:aico-nobody\n";

#[test]
fn the_system_service_gets_a_credential_that_is_in_the_clear_nowhere() {
    let Some(there) = Namespace::new(Some(ENCRYPTS)) else {
        eprintln!("{NO_NAMESPACE}");
        return;
    };
    let printed = there.run(&format!("install --system --print --owner {OWNER}"));
    assert!(printed.contains("# credential: /etc/credstore.encrypted/aico-nobody mode 0600"), "{printed}");
    assert!(printed.contains(LOADS) && !there.credential().exists(), "{printed}");
    assert_eq!(there.note("words"), "", "showing runs nothing");

    let printed = there.install();
    assert!(printed.contains("/etc/credstore.encrypted/aico-nobody"), "{printed}");
    assert!(there.unit().contains(LOADS), "{}", there.unit());
    assert_eq!(there.note("words"), "encrypt --name=aico-slot - -\n");
    let secret = there.note("input");
    let digits = secret.strip_prefix("AICO-SLOT-1-").unwrap();
    assert_eq!(digits.len(), 43, "the text form, without an end of line");
    assert_eq!(mode(&there.credential()), 0o600);
    assert_eq!(mode(there.credential().parent().unwrap()), 0o700);
    let kept = fs::read(there.credential()).unwrap();
    assert!(kept.starts_with(b"sealed\n") && kept.len() > 40);
    assert!(!printed.contains(digits) && !there.note("environment").contains(digits));
    for file in files(&there.machine.image()) {
        let bytes = fs::read(&file).unwrap();
        assert!(!bytes.windows(43).any(|part| part == digits.as_bytes()), "{}", file.display());
    }

    let printed = there.install();
    assert!(printed.contains("is kept"), "{printed}");
    assert_eq!(fs::read(there.credential()).unwrap(), kept, "another one would not open the vault");
    assert_eq!(there.note("words").lines().count(), 1);

    // Nor does a failing program take it away.
    there.double_creds("exit 1");
    there.install();
    assert!(there.unit().contains(LOADS) && fs::read(there.credential()).unwrap() == kept);

    let printed = there.run(&format!("remove --system --owner {OWNER}"));
    assert!(printed.contains("the credential that opens the vault stays: /etc/credstore.encrypted/aico-nobody"));
    assert_eq!(fs::read(there.credential()).unwrap(), kept);
}

#[test]
fn where_no_credential_can_be_made_the_unit_is_as_before() {
    let Some(there) = Namespace::new(Some("echo 'no key here' >&2; exit 1")) else {
        eprintln!("{NO_NAMESPACE}");
        return;
    };
    let big = "head -c 70000 /dev/zero";
    for (does, why) in [
        ("echo 'no key here' >&2; exit 1", "did not work: no key here"),
        ("exit 0", "its answer is no credential"),
        (big, "its answer is no credential"),
        ("cat $HERE/input", "it did not encrypt"),
        ("kill -9 $$", "signal: 9"),
    ] {
        there.double_creds(does);
        let printed = there.install();
        assert!(printed.contains("The unit has no credential") && printed.contains(why), "{does}: {printed}");
        assert!(!there.unit().contains("LoadCredential") && !there.credential().exists(), "{does}");
    }
    // What lies in its place is not replaced.
    there.double_creds(ENCRYPTS);
    fs::create_dir_all(there.credential()).unwrap();
    assert!(there.install().contains("is there and is no credential"));
    assert!(!there.unit().contains("LoadCredential") && there.credential().is_dir());
}

#[test]
fn an_image_gets_no_credential_of_this_machine() {
    let machine = Machine::new(Some("ok"));
    let printed = machine.run_in(0, &["install", "--system", "--owner", OWNER]);
    assert!(printed.contains("made on the machine itself"), "{printed}");
    let unit = machine.image().join("etc/systemd/system/aico-nobody.service");
    assert!(!fs::read_to_string(unit).unwrap().contains("LoadCredential"));
    assert!(!machine.image().join("etc/credstore.encrypted").exists());
}

/// The real `systemd-creds`, with a machine's key of the test's own.
#[test]
fn systemd_decrypts_what_was_made_and_understands_the_unit() {
    let Some(there) = Namespace::new(None) else {
        eprintln!("{NO_NAMESPACE}");
        return;
    };
    let printed = there.install();
    for missing in ["is not here", "temporary file system"] {
        if printed.contains(missing) {
            eprintln!("skipped: {printed}");
            return;
        }
    }
    assert!(there.unit().contains(LOADS) && mode(&there.credential()) == 0o600, "{printed}");
    let decrypt = "systemd-creds decrypt --name=aico-slot /etc/credstore.encrypted/aico-nobody -";
    let secret = said(0, there.shell(decrypt).stderr(Stdio::null()).output().unwrap());
    assert!(secret.starts_with("AICO-SLOT-1-") && secret.len() == 55);
    let sealed = fs::read(there.credential()).unwrap();
    assert!(!sealed.windows(55).any(|part| part == secret.as_bytes()));
    let other = there.shell("systemd-creds decrypt --name=other /etc/credstore.encrypted/aico-nobody -");
    assert!(!{ other }.output().unwrap().status.success(), "it is bound to its name");
    let verify = "systemd-analyze verify --man=no /etc/systemd/system/aico-nobody.service 2>&1 || true";
    let verified = said(0, there.shell(verify).output().unwrap());
    assert!(!verified.contains("LoadCredential"), "{verified}");
}

#[test]
fn a_folder_that_is_a_link_is_not_followed() {
    let machine = Machine::new(Some("ok"));
    let elsewhere = machine.home.root().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::create_dir_all(machine.image().join("var/lib")).unwrap();
    symlink(&elsewhere, machine.image().join("var/lib/aico-nobody")).unwrap();
    let before = mode(&elsewhere);
    let printed = machine.run_in(1, &["install", "--system", "--owner", OWNER]);
    assert!(printed.contains("make the folder"), "{printed}");
    assert_eq!(mode(&elsewhere), before);
    assert_eq!(files(&machine.image()), Vec::<PathBuf>::new(), "and no unit was written");
}

#[test]
fn owners_that_cannot_be_are_refused() {
    let machine = Machine::new(Some("ok"));
    for owner in ["root", "../etc", "a b", "a%n", "anna-keys", "nobody\n", &"x".repeat(28), "no-such-user-here"] {
        let printed = machine.run_in(2, &["install", "--system", "--owner", owner]);
        assert!(printed.contains("hint: "), "{owner}: {printed}");
    }
    let printed = machine.run_in(2, &["install", "--system"]);
    assert!(printed.contains("nobody says whose"), "{printed}");
    machine.run(2, &["install", "--owner", OWNER]);
    let mut called_by_sudo = machine.command(&["install", "--system", "--print"]);
    let printed = said(0, called_by_sudo.env("SUDO_USER", OWNER).output().unwrap());
    assert!(printed.contains("User=aico-nobody"), "{printed}");
    assert!(!machine.image().exists());
}

#[test]
fn only_root_installs_it_and_only_the_user_their_own() {
    let machine = Machine::new(Some("ok"));
    // A place that another user can run it from.
    let program = machine.home.root().join("aico");
    copy_program(Path::new(env!("CARGO_BIN_EXE_aico")), &program);
    fs::set_permissions(machine.home.root(), fs::Permissions::from_mode(0o755)).unwrap();
    for args in [["install", "--system", "--owner", OWNER], ["remove", "--system", "--owner", OWNER]] {
        let mut command = Command::new(&program);
        command.arg("service").args(args).env_clear().stdin(Stdio::null()).current_dir("/");
        if rustix::process::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        let printed = said(6, command.output().unwrap());
        assert!(printed.contains("only root") && printed.contains("sudo"), "{printed}");
    }
    if rustix::process::geteuid().is_root() {
        let printed = said(2, machine.command(&["install"]).env("SUDO_USER", OWNER).output().unwrap());
        assert!(printed.contains("without `sudo`") && !machine.unit().exists(), "{printed}");
    }
}

/// The manual states the figure.
#[test]
fn systemd_finds_the_system_unit_little_exposed() {
    let machine = Machine::new(Some("ok"));
    machine.run_in(0, &["install", "--system", "--owner", OWNER]);
    let unit = machine.image().join("etc/systemd/system/aico-nobody.service");
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=yes", "--threshold=20", "--no-pager"]).arg(&unit);
    let Ok(output) = analyze.env("LC_ALL", "C").output() else {
        eprintln!("skipped: systemd-analyze is not here (Debian package systemd)");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let level = text.lines().find_map(|line| line.split_once("exposure level for aico-nobody.service: "));
    let level: f64 = level.unwrap().1.split(' ').next().unwrap().parse().unwrap();
    assert!(output.status.success() && level <= 2.0, "{text}");
    eprintln!("exposure {level}");
}

/// systemd itself loads the unit, without running anything, and says what it has understood.
#[test]
fn systemd_reads_every_path_back_as_it_was() {
    const SYSTEMD: &str = "/lib/systemd/systemd";
    if !Path::new(SYSTEMD).exists() {
        eprintln!("skipped: systemd is not here");
        return;
    }
    let machine = Machine::new(Some("ok"));
    let odd = machine.home.root().join("odd $HOME 100%h;");
    let (program, data) = (odd.join("aico"), odd.join(r#""q"\x20\n'%%é"#));
    fs::create_dir(&odd).unwrap();
    copy_program(Path::new(env!("CARGO_BIN_EXE_aico")), &program);
    let user = machine.home.root().join("user");
    let mut install = Command::new(&program);
    install.args(["service", "install"]).env_clear().env("HOME", &user).env("AICO_HOME", &data);
    said(0, install.env("PATH", machine.home.root().join("bin")).output().unwrap());
    let wants = machine.unit().with_file_name("default.target.wants");
    fs::create_dir(&wants).unwrap();
    symlink("../aico.service", wants.join("aico.service")).unwrap();

    let run = machine.home.root().join("run");
    fs::create_dir(&run).unwrap();
    let mut systemd = Command::new(SYSTEMD);
    systemd.args(["--user", "--test"]).env_clear().env("HOME", &user).env("XDG_RUNTIME_DIR", &run).current_dir("/");
    systemd.env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(machine.home.root(), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&run, Some(65534), Some(65534)).unwrap();
        systemd.uid(65534).gid(65534);
    }
    let output = systemd.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let unit = text.split("-> Unit aico.service:").nth(1).unwrap_or_else(|| panic!("{text}: {output:?}"));
    let unit = unit.split("-> Unit ").next().unwrap();
    assert!(unit.contains(&format!("Environment: AICO_HOME={}\n", data.display())), "{unit}");
    let shown = program.display().to_string().replace('$', r"\$");
    assert!(unit.contains(&format!("Command Line: \"{shown}\" up\n")), "{unit}");
    assert!(unit.contains("MemoryDenyWriteExecute: yes") && unit.contains("Restart: on-failure"), "{unit}");
}
