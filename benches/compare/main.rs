//! The Rust parts of `benches/compare/run`, which starts them: the servers that pollgate is compared with, and the
//! clients that wrk cannot play. Alone it does nothing.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_types,
    reason = "its output is what it is for, and the time in it is the real one"
)]

mod clients;
mod servers;
mod tls;

use std::path::Path;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        // A server that answers with the bytes on its standard input, after so many milliseconds.
        ["hyper", delay] => runtime().block_on(servers::constant(millis(delay))),
        // The same on all cores.
        ["hyper-on-all-cores", delay] => {
            let runtime = Runtime::new().expect("a runtime");
            runtime.block_on(servers::constant(millis(delay)));
        }
        // An upstream that knows every task, in this state; over TLS, if there is a folder with a certificate.
        ["upstream", state, delay, ref tls @ ..] => {
            let state = String::from(state);
            let tls = tls.first().map(|folder| tls::server(Path::new(folder)));
            runtime().block_on(servers::upstream(state, millis(delay), tls));
        }
        ["certificate", folder] => tls::write_certificate(Path::new(folder)),
        ["burst", address, path, count] => {
            runtime().block_on(clients::burst(address, path, number(count)));
        }
        ["idle", address, path, count] => {
            runtime().block_on(clients::idle(address, path, number(count)));
        }
        ["held", address, path, count] => {
            runtime().block_on(clients::held(address, path, number(count)));
        }
        ["fill", address, path, from, to] => {
            runtime().block_on(clients::fill(address, path, number(from)..number(to)));
        }
        _ => println!("the comparison is benches/compare/run"),
    }
}

/// One thread: what runs on it is measured against one worker of each of the others.
fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

fn millis(text: &str) -> Duration {
    Duration::from_millis(text.parse().expect("a number of milliseconds"))
}
