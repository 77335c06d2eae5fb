//! Standard output: a picture redrawn in place in a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use terminal_size::{Height, Width, terminal_size};

use super::endpoints::Endpoints;
use super::render::frame;
use super::report::{head, invitation, moment};
use super::view::View;

/// Switches to the terminal's alternate screen and hides the cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// Shows the cursor and switches back.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// The head of the table of plain lines is repeated after this many rows.
const HEAD_EVERY: usize = 20;

/// A picture or plain lines. Dropping it restores the terminal.
#[derive(Debug)]
pub(super) enum Screen {
    /// A picture in a terminal.
    Live {
        colours: bool,
        /// Whether the alternate screen is on.
        entered: bool,
    },
    /// Plain lines.
    Plain {
        /// Whether the command to try was printed.
        invited: bool,
        /// Rows printed so far.
        rows: usize,
    },
}

impl Screen {
    /// Chooses by standard output, `TERM` and `NO_COLOR`.
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
            Self::Plain {
                invited: false,
                rows: 0,
            }
        }
    }

    /// Time between two views.
    pub(super) fn pace(&self) -> Duration {
        match self {
            Self::Live { .. } => Duration::from_millis(250),
            Self::Plain { .. } => Duration::from_secs(1),
        }
    }

    /// Shows a view.
    ///
    /// # Errors
    /// Standard output is closed.
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
            Self::Plain { invited, rows } => {
                if !*invited && let Some(invitation) = invitation(view, endpoints) {
                    *invited = true;
                    say(&invitation)?;
                }
                if rows.is_multiple_of(HEAD_EVERY) {
                    say(&head())?;
                }
                *rows += 1;
                say(&moment(view))
            }
        }
    }

    /// Leaves the alternate screen; further output follows the shell's prompt.
    ///
    /// # Errors
    /// Standard output is closed.
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

/// Writes to standard output and flushes it.
///
/// # Errors
/// Standard output is closed.
pub(super) fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Draws from the top over the last picture, and clears the remainder of each line and of the screen.
fn compose(lines: impl Iterator<Item = String>) -> String {
    let lines: Vec<_> = lines.collect();
    format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n"))
}

fn size() -> (usize, usize) {
    let (width, height) = terminal_size().map_or((80, 24), |(Width(width), Height(height))| {
        (usize::from(width), usize::from(height))
    });
    // Some terminals report 0 for unknown.
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
