//! A process replaces another on the same listening socket: no client sees a failure.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use command_fds::{CommandFdExt as _, FdMapping};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::support::{Gateway, Upstream, binary, eventually, get, row};

/// A command that starts the binary with these sockets passed in, as systemd does.
fn passing(sockets: &[&TcpListener], names: Option<&str>, arguments: &[&str]) -> Command {
    let inner = binary();
    let mut command = Command::new("sh");
    // The process id is known once it runs, so the shell sets it and becomes the binary.
    command
        .args(["-c", r#"export LISTEN_PID=$$; exec "$@""#, "sh"])
        .arg(inner.get_program())
        .args(arguments)
        .env("LISTEN_FDS", sockets.len().to_string());
    for (name, _) in inner.get_envs() {
        command.env_remove(name);
    }
    if let Some(names) = names {
        command.env("LISTEN_FDNAMES", names);
    }
    let mappings = sockets.iter().zip(3..).map(|(socket, child_fd)| FdMapping {
        parent_fd: OwnedFd::from(socket.try_clone().expect("another descriptor")),
        child_fd,
    });
    command
        .fd_mappings(mappings.collect())
        .expect("no number twice");
    command
}

fn socket() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("is bound");
    (socket, address)
}

/// Polls on one keep-alive connection after another, and accepts only whole answers with status 200.
async fn poll_until(stop: CancellationToken, address: SocketAddr, answered: &AtomicUsize) {
    while !stop.is_cancelled() {
        let mut connection = BufReader::new(TcpStream::connect(address).await.expect("connects"));
        let mut goes_on = true;
        while goes_on && !stop.is_cancelled() {
            goes_on = poll(&mut connection).await;
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sends one poll. Returns whether the connection may be used for the next.
async fn poll(connection: &mut BufReader<TcpStream>) -> bool {
    connection
        .write_all(b"GET /v1/videos/t HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-1\r\n\r\n")
        .await
        .expect("is sent");
    let (mut length, mut goes_on, mut lines) = (0, true, 0);
    loop {
        let mut line = String::new();
        let count = connection.read_line(&mut line).await.expect("an answer");
        assert!(count > 0, "the connection ended in place of an answer");
        if lines == 0 {
            assert_eq!(line.trim(), "HTTP/1.1 200 OK");
        }
        lines += 1;
        match line.trim().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().expect("a length"),
            Some(("connection", value)) => goes_on = value != "close",
            None if lines > 1 => break,
            Some(_) | None => {}
        }
    }
    let mut body = vec![0; length];
    connection
        .read_exact(&mut body)
        .await
        .expect("a whole answer");
    goes_on
}

#[tokio::test]
async fn a_restart_on_a_passed_socket_fails_no_request() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let (socket, address) = socket();
    let url = upstream.url();
    let arguments = ["--upstream", &url, "--admin", "127.0.0.1:0"];
    let start = || passing(&[&socket], Some("clients"), &arguments);
    let mut serving = Gateway::spawn(start()).await;
    assert_eq!(serving.address, address);
    assert!(
        serving.log()[0].contains("a socket that was passed in; listen.address is not bound"),
        "{:?}",
        serving.log()
    );

    let (stop, answered) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let (stop, answered) = (stop.clone(), Arc::clone(&answered));
            tokio::spawn(async move { poll_until(stop, address, &answered).await })
        })
        .collect();
    let more_are_answered = async || {
        let before = answered.load(Ordering::Relaxed);
        eventually("more answers", async || {
            answered.load(Ordering::Relaxed) > before + 200
        })
        .await;
    };
    for round in 0..3 {
        more_are_answered().await;
        // Side by side first, and then one after the other, as systemd does it.
        let next = if round < 2 {
            let next = Gateway::spawn(start()).await;
            serving.signal("-TERM");
            next
        } else {
            serving.signal("-TERM");
            assert_eq!(serving.ended().await.code(), Some(0));
            Gateway::spawn(start()).await
        };
        let mut before = std::mem::replace(&mut serving, next);
        if round < 2 {
            assert_eq!(before.ended().await.code(), Some(0));
        }
        more_are_answered().await;
    }
    stop.cancel();
    for client in clients {
        client.await.expect("no request failed");
    }
}

#[tokio::test]
async fn the_admin_socket_can_be_passed_too_and_is_left_to_the_next_process_at_once() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let ((clients, address), (admin, admin_address)) = (socket(), socket());
    let url = upstream.url();
    let arguments = ["--upstream", &url, "--admin", "off"];
    let start = || passing(&[&admin, &clients], Some("admin:clients"), &arguments);
    let mut old = Gateway::spawn(start()).await;
    assert_eq!((old.address, old.admin), (address, admin_address));

    upstream.close_gate();
    let held = tokio::spawn({
        let client = old.client.clone();
        async move { client.get("/v1/videos/t", "sk-1", &[]).await }
    });
    upstream.was_asked(1).await;
    let _new = Gateway::spawn(start()).await;
    old.signal("-TERM");
    eventually("draining", async || {
        old.log().iter().any(|line| line.contains("draining"))
    })
    .await;
    // The old process may accept one more connection from before the signal.
    eventually("only the new one answers", async || {
        get(admin_address, "/readyz").await.status == 200
    })
    .await;
    for _ in 0..20 {
        assert_eq!(get(admin_address, "/readyz").await.status, 200);
    }
    upstream.let_pass(1);
    assert_eq!(held.await.unwrap().status, 200);
    assert_eq!(old.ended().await.code(), Some(0));
}

#[test]
fn invalid_passed_sockets_are_exit_2() {
    let (one, _) = socket();
    let public = TcpListener::bind("0.0.0.0:0").expect("a free port");
    for (socket, name, told) in [
        (
            &one,
            "pollgate.socket",
            "LISTEN_FDNAMES: got \"pollgate.socket\"",
        ),
        (
            &public,
            "admin",
            "takes a loopback address; to let other machines in",
        ),
    ] {
        let arguments = ["--listen", "127.0.0.1:0", "--admin", "off"];
        let output = passing(&[socket], Some(name), &arguments)
            .output()
            .expect("runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(told), "{told}: {error}");
    }
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let mut command = binary();
    command
        .env("LISTEN_FDS", "1")
        .fd_mappings(vec![FdMapping {
            parent_fd: datagrams.into(),
            child_fd: 3,
        }])
        .expect("no number twice");
    let output = command.output().expect("runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not a valid tcp socket"));
}

#[test]
fn sockets_passed_to_another_process_are_left_alone() {
    let (socket, _) = socket();
    let mut command = binary();
    command
        .args(["--listen", "203.0.113.1:1", "--admin", "off"])
        .env("LISTEN_FDS", "1")
        .env("LISTEN_PID", "1")
        .fd_mappings(vec![FdMapping {
            parent_fd: socket.into(),
            child_fd: 3,
        }])
        .expect("no number twice");
    let output = command.output().expect("runs");
    assert_eq!(
        output.status.code(),
        Some(1),
        "listen.address is bound, which fails"
    );
}
