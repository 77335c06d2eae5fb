//! Tells the program which commit it is built from, where that is known: `POLLGATE_COMMIT` names it (for builds without a
//! repository, such as an image's), a package from a registry carries it in a file, and a checkout has it in git. Where
//! none does, the version alone has to do. Debug builds leave it out: they change with every edit, and would be built
//! anew with every commit.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=POLLGATE_COMMIT");
    let mut version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    if env::var("PROFILE").as_deref() == Ok("release")
        && let Some(commit) = named().or_else(packaged).or_else(checked_out)
        && is_commit(&commit)
    {
        version = format!("{version} ({})", &commit[..12]);
    }
    println!("cargo:rustc-env=POLLGATE_VERSION={version}");
}

fn named() -> Option<String> {
    env::var("POLLGATE_COMMIT").ok()
}

/// `cargo package` writes the commit into the package.
fn packaged() -> Option<String> {
    let text = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, rest) = text.split_once("\"sha1\"")?;
    rest.split('"').nth(1).map(str::to_owned)
}

fn checked_out() -> Option<String> {
    // A folder inside another project's repository is not a checkout of this one.
    if !Path::new(".git").exists() {
        return None;
    }
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && Path::new(&path).exists()
        {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn is_commit(text: &str) -> bool {
    text.len() >= 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
