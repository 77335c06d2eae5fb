//! Priorities for systemd's journal (`sd-daemon(3)`): a line that begins with `<4>` is a warning there, so that
//! `journalctl -p warning` finds it. Only the journal reads them: where standard output is anything else, lines stay as
//! they are.

use std::env;
use std::fmt;
use std::fs::File;
use std::io::stdout;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Whether standard output is the stream to the journal that `JOURNAL_STREAM` names by device and inode
/// (`systemd.exec(5)`). A program started by the service inherits the variable, but not always the stream.
pub(super) fn reads_standard_output() -> bool {
    let Ok(named) = env::var("JOURNAL_STREAM") else {
        return false;
    };
    let file = stdout().as_fd().try_clone_to_owned().map(File::from);
    file.and_then(|file| file.metadata())
        .is_ok_and(|stream| named == format!("{}:{}", stream.dev(), stream.ino()))
}

/// A format whose lines begin with their priority.
pub(super) struct WithPriority<F>(pub(super) F);

impl<S, N, F> FormatEvent<S, N> for WithPriority<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.0
            .format_event(context, Writer::new(&mut text), event)?;
        let priority = priority(*event.metadata().level());
        // The journal takes every line of a snapshot for an entry of its own.
        text.lines()
            .try_for_each(|line| writeln!(to, "<{priority}>{line}"))
    }
}

/// The number that `syslog(3)` has for a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}
