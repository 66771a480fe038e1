//! A socket passed by systemd: used, kept over a restart, refused if it is the wrong one.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use crate::support::{ORDER, Service, TEST_TIMEOUT, answer, orders};

/// The service as systemd starts it, with `socket` as descriptor 3.
fn with_socket(socket: OwnedFd, folder: &Path) -> Command {
    let orders = orders();
    let mut command = Command::new("sh");
    // The shell becomes the service, so its process id is the service's.
    command.args([
        "-c",
        "LISTEN_PID=$$ LISTEN_FDS=${FDS:-1} exec \"$0\" \"$@\" 3<&0 </dev/null",
    ]);
    command.arg(orders.get_program());
    for (name, value) in orders.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.args(["--store", &format!("file://{}", folder.display())]);
    command.stdin(socket);
    command
}

#[test]
fn a_restart_refuses_no_connection() {
    let folder = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let start = || {
        let socket = socket.try_clone().unwrap().into();
        Service::spawn(with_socket(socket, folder.path()))
    };
    let mut first = start();
    assert_eq!(first.address, address);
    first.wait_for("taking orders into");
    let id = first.place();
    first.signal("TERM");
    assert_eq!(first.ended().code(), Some(0));

    // No service is running; new connections wait.
    let mut waiting = TcpStream::connect(address).unwrap();
    waiting.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    write!(
        waiting,
        "GET /order/{id} HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let second = start();
    let answer = answer(&mut waiting).expect("an answer by the second");
    assert_eq!(answer.status, 200, "{answer:?}");
    second.wait_for("taking orders into");
    second.place();
}

#[test]
fn connections_from_before_the_stop_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut service = Service::spawn(with_socket(socket.into(), folder.path()));
    service.wait_for("taking orders into");
    let mut half = service.connect();
    write!(
        half,
        "POST /order HTTP/1.1\r\nhost: s\r\ncontent-type: application/json\r\n\
         expect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        ORDER.len()
    )
    .unwrap();
    half.read_exact(&mut [0; 25]).unwrap();
    service.signal("TERM");
    service.wait_for("finishing the requests in progress");
    half.write_all(ORDER.as_bytes()).unwrap();
    let answer = answer(&mut half).expect("the order under way is answered");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(service.ended().code(), Some(0));
}

#[test]
fn a_wrong_socket_is_refused_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let tcp = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let unix = UnixListener::bind(folder.path().join("socket")).unwrap();
    let file = File::create(folder.path().join("file")).unwrap();
    let table = [
        (
            tcp(),
            vec!["--listen", "0.0.0.0:8080"],
            "1",
            "hint: leave `listen` out, or set ListenStream=0.0.0.0:8080",
        ),
        (tcp(), vec![], "2", "systemd passed 2 sockets"),
        (unix.into(), vec![], "1", "to a TCP port or address"),
        (file.into(), vec![], "1", "to a TCP port or address"),
    ];
    for (socket, args, count, part) in table {
        let mut command = with_socket(socket, folder.path());
        let output = command.env("FDS", count).args(&args).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {printed}");
        assert!(printed.contains(part), "{args:?}: {printed}");
    }
}

#[test]
fn a_socket_for_another_process_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = orders();
    command.args(["--store", &format!("file://{}", folder.path().display())]);
    command.env("LISTEN_PID", "1").env("LISTEN_FDS", "1");
    let service = Service::spawn(command);
    service.wait_for("taking orders into");
    service.place();
}
