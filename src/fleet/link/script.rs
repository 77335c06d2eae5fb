//! The scripts that the engine runs, by the digest that it knows them by.

use std::borrow::Cow;
use std::fmt;

use redis::Cmd;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// A script and its SHA-1, as EVALSHA takes it.
pub(super) struct Script {
    name: &'static str,
    text: Cow<'static, str>,
    sha: String,
}

/// All scripts.
#[derive(Debug)]
pub(super) struct Scripts {
    pub board: Script,
    pub land: Script,
    pub leave: Script,
    pub renew: Script,
    pub forget: Script,
    pub tell: Script,
    pub beat: Script,
    pub ends: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self::from(Cow::Borrowed)
    }

    /// Scripts that read the time from a key, so that a test can set it.
    #[cfg(test)]
    pub(super) fn by_clock(key: &str) -> Self {
        let time = format!("redis.call('HMGET', '{key}', 's', 'us')");
        Self::from(|text| text.replace("redis.call('TIME')", &time).into())
    }

    fn from(edit: impl Fn(&'static str) -> Cow<'static, str>) -> Self {
        let script = |name, text| Script::new(name, edit(text));
        Self {
            board: script("board", include_str!("../scripts/board.lua")),
            land: script("land", include_str!("../scripts/land.lua")),
            leave: script("leave", include_str!("../scripts/leave.lua")),
            renew: script("renew", include_str!("../scripts/renew.lua")),
            forget: script("forget", include_str!("../scripts/forget.lua")),
            tell: script("tell", include_str!("../scripts/tell.lua")),
            beat: script("beat", include_str!("../scripts/beat.lua")),
            ends: script("ends", include_str!("../scripts/ends.lua")),
        }
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.name)
    }
}

impl Script {
    fn new(name: &'static str, text: Cow<'static, str>) -> Self {
        let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        let mut hex = const_hex::Buffer::<20>::new();
        let sha = hex.format_slice(digest.as_ref()).to_owned();
        Self { name, text, sha }
    }

    /// Calls the script, which the engine has.
    pub(super) fn call(&self, keys: &[String], args: &[Vec<u8>]) -> Cmd {
        Self::command("EVALSHA", &self.sha, keys, args)
    }

    /// Calls the script and has the engine keep it.
    pub(super) fn load_and_call(&self, keys: &[String], args: &[Vec<u8>]) -> Cmd {
        Self::command("EVAL", &self.text, keys, args)
    }

    fn command(how: &str, what: &str, keys: &[String], args: &[Vec<u8>]) -> Cmd {
        let mut command = redis::cmd(how);
        command.arg(what).arg(keys.len()).arg(keys).arg(args);
        command
    }
}
