//! Where scenes are shown: in place in a terminal, else as a line now and then.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use terminal_size::{Height, Width, terminal_size};

use super::endpoints::Endpoints;
use super::render::frame;
use super::report::{invitation, moment};
use super::view::View;

/// To another page of the terminal, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// And back, as it was.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// See the module. Dropped, it leaves the terminal as it was.
#[derive(Debug)]
pub(super) enum Screen {
    /// Drawn again and again.
    Live {
        /// Whether colours are welcome.
        colours: bool,
        /// Whether the terminal is on its other page.
        entered: bool,
    },
    /// Line after line.
    Plain {
        /// Whether the reader knows how to ask on their own.
        invited: bool,
    },
}

impl Screen {
    /// The one that suits standard output.
    pub(super) fn new() -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if io::stdout().is_terminal() && !dumb {
            // https://no-color.org: any value but an empty one.
            let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            Self::Live {
                colours,
                entered: false,
            }
        } else {
            Self::Plain { invited: false }
        }
    }

    /// How long until the next view is wanted.
    pub(super) fn pace(&self) -> Duration {
        match self {
            Self::Live { .. } => Duration::from_millis(250),
            Self::Plain { .. } => Duration::from_secs(1),
        }
    }

    /// Shows a view.
    ///
    /// # Errors
    /// Standard output is gone.
    pub(super) fn show(&mut self, view: &View, endpoints: &Endpoints) -> io::Result<()> {
        match self {
            Self::Live { colours, entered } => {
                if !std::mem::replace(entered, true) {
                    say(ENTER)?;
                }
                // The last line stays free: a terminal would scroll after it.
                let (width, height) = size();
                let lines = frame(view, endpoints, width, height - 1);
                say(&compose(
                    lines.iter().map(|line| line.paint(width, *colours)),
                ))
            }
            Self::Plain { invited } => {
                if !*invited && let Some(invitation) = invitation(view, endpoints) {
                    *invited = true;
                    say(&invitation)?;
                }
                say(&moment(view))
            }
        }
    }

    /// Leaves the picture's page; what follows goes where the command was typed.
    ///
    /// # Errors
    /// Standard output is gone.
    pub(super) fn leave(&mut self) -> io::Result<()> {
        if let Self::Live { entered, .. } = self
            && std::mem::take(entered)
        {
            say(LEAVE)?;
        }
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.leave();
    }
}

/// Writes to standard output, at once.
///
/// # Errors
/// It is gone.
pub(super) fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// One picture over the last one: from the top, each line's rest and all that is below it cleared.
fn compose(lines: impl Iterator<Item = String>) -> String {
    let lines: Vec<_> = lines.collect();
    format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n"))
}

fn size() -> (usize, usize) {
    let (width, height) = terminal_size().map_or((80, 24), |(Width(width), Height(height))| {
        (usize::from(width), usize::from(height))
    });
    // Some terminals do not know and say 0.
    (
        if width == 0 { 80 } else { width },
        if height < 2 { 24 } else { height },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_clears_what_it_does_not_cover() {
        let composed = compose(["ab".to_owned(), "c".to_owned()].into_iter());
        assert_eq!(composed, "\x1b[Hab\x1b[K\r\nc\x1b[K\x1b[J");
    }
}
