//! The `pollgate` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    pollgate::cli::main()
}
