use std::io::Read;
use std::os::unix::net::UnixStream;

use super::*;
use crate::tree::tests::Scene;

const LOOKS: Looks = Looks { read_only: false, user: 7, group: 8 };

/// A file system whose kernel is the test.
struct Asked {
    served: Served,
    kernel: UnixStream,
    room: Room,
}

impl Asked {
    fn new(scene: &Scene, looks: Looks, time: Duration, bytes: u64) -> Self {
        let (kernel, device) = UnixStream::pair().unwrap();
        let bounds = Bounds { until: Instant::now() + time, bytes };
        let served = Served::new(Arc::new(scene.open()), device.into(), looks, bounds);
        Self { served, kernel, room: Room::default() }
    }

    /// Error, and what was answered.
    fn ask(&mut self, op: Op, node: u64, body: &[u8]) -> (i32, Vec<u8>) {
        assert!(self.served.answer(&message(op, node, body), &mut self.room));
        let mut header = [0; 16];
        self.kernel.read_exact(&mut header).unwrap();
        let [length, error] = [0, 4].map(|at| i32::from_ne_bytes(header[at..at + 4].try_into().unwrap()));
        let mut body = vec![0; length as usize - 16];
        self.kernel.read_exact(&mut body).unwrap();
        (-error, body)
    }

    /// Makes a file; its number and a handle.
    fn create(&mut self, name: &[u8]) -> (i32, u64, u64) {
        let (error, made) =
            self.ask(Op::Create, 1, &[&[0; 4], &0o644u32.to_ne_bytes()[..], &[0; 8], name, &[0]].concat());
        let number = |at: usize| made.get(at..at + 8).map_or(0, |bytes| u64::from_ne_bytes(bytes.try_into().unwrap()));
        (error, number(0), number(128))
    }

    fn write(&mut self, handle: u64, data: &[u8]) -> i32 {
        let length = data.len() as u32;
        let head = [&handle.to_ne_bytes()[..], &[0; 8], &length.to_ne_bytes(), &[0; 20]].concat();
        self.ask(Op::Write, 0, &[&head, data].concat()).0
    }
}

fn message(op: Op, node: u64, body: &[u8]) -> Vec<u8> {
    let length = 40 + body.len() as u32;
    let numbers = [length.to_ne_bytes(), (op as u32).to_ne_bytes()].concat();
    [&numbers[..], &9u64.to_ne_bytes(), &node.to_ne_bytes(), &[0; 16], body].concat()
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_mount_ends_at_its_bound_of_bytes() {
    let scene = Scene::new();
    let mut asked = Asked::new(&scene, LOOKS, HOUR, 10);
    let (error, _, handle) = asked.create(b"a");
    assert_eq!(error, 0);
    assert_eq!(asked.write(handle, b"0123456789"), 0);
    assert!(!asked.served.is_over());
    assert_eq!(asked.write(handle, b"x"), 0, "the one that goes beyond is the last");
    assert!(asked.served.is_over());
    assert_eq!((asked.write(handle, b"y"), asked.create(b"b").0), (5, 5));
    assert_eq!(asked.served.sums(), Sums { files: 1, read: 0, written: 11, damaged: 0 });
}

#[test]
fn a_mount_ends_at_its_bound_of_time_and_with_its_tree() {
    let scene = Scene::new();
    let mut asked = Asked::new(&scene, LOOKS, Duration::ZERO, 10);
    assert_eq!((asked.create(b"a").0, asked.ask(Op::Getattr, 1, &[0; 16]).0), (5, 5));
    let mut asked = Asked::new(&scene, LOOKS, HOUR, 10);
    assert_eq!(asked.ask(Op::Getattr, 1, &[0; 16]).0, 0);
    asked.served.tree.end();
    assert_eq!(asked.ask(Op::Getattr, 1, &[0; 16]).0, 5);
}

#[test]
fn what_is_read_only_is_not_changed_and_nobody_is_given_anything() {
    let scene = Scene::new();
    let mut asked = Asked::new(&scene, Looks { read_only: true, ..LOOKS }, HOUR, 1000);
    assert_eq!((asked.create(b"a").0, asked.ask(Op::Mkdir, 1, b"\0\0\0\0\0\0\0\0b\0").0), (30, 30));
    let mut asked = Asked::new(&scene, LOOKS, HOUR, 1000);
    let mut chown = [0; 88];
    chown[..4].copy_from_slice(&0b110u32.to_ne_bytes());
    assert_eq!(asked.ask(Op::Setattr, 1, &chown).0, 1, "to another user");
    chown[76..80].copy_from_slice(&7u32.to_ne_bytes());
    chown[80..84].copy_from_slice(&8u32.to_ne_bytes());
    assert_eq!(asked.ask(Op::Setattr, 1, &chown).0, 0, "to whom it belongs");
    let pipe = [0o010_644u32.to_ne_bytes(), [0; 4], [0; 4], [0; 4]].concat();
    assert_eq!(asked.ask(Op::Mknod, 1, &[&pipe, &b"p\0"[..]].concat()).0, 1);
}

/// The kernel does not send these; whatever does gets an error or nothing, never more.
#[test]
fn requests_that_no_kernel_sends_are_errors() {
    let scene = Scene::new();
    let mut asked = Asked::new(&scene, LOOKS, HOUR, 1 << 30);
    let (_, file, handle) = asked.create(b"a");
    assert_eq!(asked.write(handle, &[1; 5000]), 0);
    for number in 0u32..64 {
        for node in [0, 1, file, u64::MAX] {
            for length in [0, 1, 7, 8, 15, 16, 39, 40, 87, 88, 200] {
                let body: Vec<u8> = (0..length).map(|at| (at * 37 + number) as u8).collect();
                let mut sent = message(Op::Lookup, node, &body);
                sent[4..8].copy_from_slice(&number.to_ne_bytes());
                let _goes_on = asked.served.answer(&sent, &mut asked.room);
            }
        }
        asked.kernel.set_nonblocking(true).unwrap();
        let mut answers = Vec::new();
        let _all = (&asked.kernel).read_to_end(&mut answers);
    }
    assert!(!asked.served.answer(&[0; 39], &mut asked.room), "less than a header");
    assert!(!asked.served.answer(&message(Op::Destroy, 0, &[]), &mut asked.room));
}

#[test]
fn only_a_descriptor_of_fuse_is_served() {
    let scene = Scene::new();
    for path in ["/dev/null", "/proc/self/exe"] {
        let device = std::fs::File::open(path).unwrap().into();
        let ended = Session::start(Arc::new(scene.open()), device, LOOKS, (HOUR, 1), Box::new(|| ()));
        assert!(matches!(ended, Err(Error::Refused(_))), "{path}");
    }
    if let Ok(device) = std::fs::File::options().read(true).write(true).open("/dev/fuse") {
        let ended = Session::start(Arc::new(scene.open()), device.into(), LOOKS, (HOUR, 1), Box::new(|| ()));
        assert!(ended.is_err(), "nothing is mounted through it");
    }
}
