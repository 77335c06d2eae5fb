//! The command line.

mod health;
mod manual;

use std::fmt::Display;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Loaded, Sources, Workers};
use crate::daemon::{Bound, Passed, StartProblem, reload_on_hangup, stop_on_signals};
use crate::demo;
use crate::gateway::Problem;
use crate::simulator::{self, Simulator};
use crate::telemetry;

/// The exit code of a failure while running.
const FAILED: u8 = 1;
/// The exit code of bad usage or configuration, as clap has it.
const MISUSED: u8 = 2;

/// The version, and the commit where the build knew it.
const VERSION: &str = env!("POLLGATE_VERSION");

/// A caching gateway for video-task status polls: many pollers, one upstream request.
///
/// Point your clients' base URL at the gateway; nothing else changes. Without a command, pollgate serves.
#[derive(Debug, Parser)]
#[command(version = VERSION, args_conflicts_with_subcommands = true, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

const AFTER_HELP: &str = "\
Flags override environment variables (POLLGATE_CACHE__SUCCEEDED_TTL=6h), which override the file, which overrides \
the defaults. `pollgate check` shows all settings and the origin of each.

SIGTERM and SIGINT stop the gateway after requests in progress have finished; SIGHUP reloads the file and the \
certificate. Exit codes: 0 success, 1 failure while running, 2 bad usage or configuration.

Examples:
  pollgate demo                              see it work, without a key
  pollgate                                   serve on 127.0.0.1:8080, metrics on 127.0.0.1:9090
  pollgate simulate                          run a simulated upstream; then, in another terminal:
  pollgate --upstream http://127.0.0.1:8090";

const DEMO_HELP: &str = "\
Examples:
  pollgate demo                                    20 tasks, 25 pollers each, until Ctrl-C
  pollgate demo --seconds 30 > demo.txt            plain lines, and a summary after half a minute
  pollgate demo --routes                           Midjourney, Kling, Suno and other task APIs as well
  pollgate demo --tasks 100 --listen 127.0.0.1:8080";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway (the default).
    Serve(Settings),
    /// Check the configuration and print all settings as TOML, with the origin of each.
    Check(Check),
    /// See it work, without a key or a network: a simulated OctopusX, the gateway, and a crowd of pollers.
    ///
    /// All three run in this process and talk over real sockets. In a terminal, a live picture compares client polls
    /// with upstream polls (plain lines elsewhere). Every answer is checked against the simulator's own record: the
    /// exit code is 1 if one was wrong, went backward, or belonged to another caller.
    #[command(after_help = DEMO_HELP)]
    Demo(demo::Options),
    /// Run a simulated OctopusX, to test pollers without paying for videos.
    Simulate(Simulate),
    /// Check whether a running gateway is alive, through its admin listener: exit 0 if it is, else 1.
    Health(Health),
    /// Print shell completions: `source <(pollgate completions bash)`.
    Completions {
        /// Shell to complete for.
        shell: Shell,
    },
    /// Print the manual page, or write all manual pages to a folder.
    Man {
        /// Folder to write to, created if necessary; without it, pollgate(1) is printed.
        #[arg(value_name = "FOLDER", value_hint = ValueHint::DirPath)]
        folder: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct Simulate {
    /// Address to listen on; port 0 picks a free port.
    #[arg(long, value_name = "ADDR", value_hint = ValueHint::Other, default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    #[command(flatten)]
    settings: simulator::Settings,
}

#[derive(Debug, Clone, Default, Args)]
#[allow(clippy::doc_markdown, reason = "these comments are help texts")]
struct Settings {
    /// Configuration file (TOML) [env: POLLGATE_CONFIG].
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Address to listen on for clients [default: 127.0.0.1:8080]; port 0 picks a free port [env: POLLGATE_LISTEN].
    #[arg(long, value_name = "ADDR", value_hint = ValueHint::Other)]
    listen: Option<String>,
    /// Address to listen on for metrics and health [default: 127.0.0.1:9090], or "off" [env: POLLGATE_ADMIN].
    #[arg(long, value_name = "ADDR", value_hint = ValueHint::Other)]
    admin: Option<String>,
    #[arg(
        long,
        value_name = "URL",
        value_hint = ValueHint::Other,
        help = "The API behind the gateway [default: https://octopusx.ai]; a path prefix is kept [env: POLLGATE_UPSTREAM]"
    )]
    upstream: Option<String>,
}

#[derive(Debug, Args)]
struct Check {
    /// How the settings are printed.
    #[arg(long, value_enum, default_value_t = Format::Toml)]
    format: Format,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A configuration file, with the origin of each setting as a comment.
    Toml,
    /// For programs: settings, origins, warnings and errors in one object.
    Json,
}

#[derive(Debug, Args)]
#[allow(clippy::doc_markdown, reason = "these comments are help texts")]
struct Health {
    /// Configuration file (TOML) of the running gateway [env: POLLGATE_CONFIG].
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Address of its admin listener [default: 127.0.0.1:9090] [env: POLLGATE_ADMIN].
    #[arg(long, value_name = "ADDR", value_hint = ValueHint::Other)]
    admin: Option<String>,
}

impl Settings {
    fn sources(&self) -> Sources {
        let flags = [
            ("listen.address", "--listen", &self.listen),
            ("listen.admin", "--admin", &self.admin),
            ("upstream.url", "--upstream", &self.upstream),
        ];
        Sources {
            file: self.config.clone(),
            // No setting takes a value that is not UTF-8.
            environment: std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
            flags: flags
                .into_iter()
                .filter_map(|(key, flag, value)| Some((key, flag, value.clone()?)))
                .collect(),
        }
    }
}

impl From<Health> for Settings {
    fn from(Health { config, admin }: Health) -> Self {
        Self {
            config,
            admin,
            ..Self::default()
        }
    }
}

/// Runs the command that was typed.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command.unwrap_or(Command::Serve(cli.settings)) {
        Command::Serve(settings) => with_config(&settings, |loaded| serve(&settings, loaded)),
        Command::Check(options) => check(&options),
        Command::Demo(options) => report(run_demo(options)),
        Command::Simulate(simulate) => report(run_simulator(simulate)),
        Command::Health(options) => {
            with_config(&options.into(), |loaded| health::check(&loaded.config))
        }
        Command::Completions { shell } => report(completions(shell)),
        Command::Man { folder } => report(man(folder.as_deref())),
    }
}

fn with_config(settings: &Settings, run: impl FnOnce(&Loaded) -> Result<(), Problem>) -> ExitCode {
    let loaded = match config::load(&settings.sources()) {
        Ok(loaded) => loaded,
        Err(problem) => return fail(problem.mistakes(), MISUSED),
    };
    let Err(problem) = run(&loaded) else {
        return ExitCode::SUCCESS;
    };
    match problem.downcast_ref() {
        Some(StartProblem::Configuration(problem)) => {
            fail(&[loaded.with_location(&problem.to_string())], MISUSED)
        }
        Some(StartProblem::Passed(problem)) => fail(&[problem], MISUSED),
        _ => fail(&[problem], FAILED),
    }
}

fn report(outcome: Result<(), Problem>) -> ExitCode {
    outcome.map_or_else(|problem| fail(&[problem], FAILED), |()| ExitCode::SUCCESS)
}

fn fail(problems: &[impl Display], code: u8) -> ExitCode {
    for problem in problems {
        eprintln!("pollgate: {problem}");
    }
    ExitCode::from(code)
}

fn check(options: &Check) -> ExitCode {
    let checked = config::load(&options.settings.sources())
        .map_err(|problem| problem.mistakes().to_vec())
        .and_then(|loaded| match Bound::examine(&loaded.config) {
            Ok(_) => Ok(loaded),
            Err(problem) => Err(vec![loaded.with_location(&problem.to_string())]),
        });
    let written = match (&checked, options.format) {
        (Ok(loaded), Format::Toml) => {
            for warning in loaded.warnings() {
                eprintln!("pollgate: warning: {warning}");
            }
            loaded.to_toml().map_err(Into::into)
        }
        (Ok(loaded), Format::Json) => Ok(format!("{:#}\n", loaded.to_json())),
        (Err(mistakes), Format::Toml) => return fail(mistakes, MISUSED),
        (Err(mistakes), Format::Json) => {
            let told = serde_json::json!({"valid": false, "errors": mistakes});
            Ok(format!("{told:#}\n"))
        }
    };
    let printed = written.and_then(|text| Ok(std::io::stdout().write_all(text.as_bytes())?));
    match printed {
        Ok(()) if checked.is_err() => ExitCode::from(MISUSED),
        printed => report(printed),
    }
}

fn serve(settings: &Settings, loaded: &Loaded) -> Result<(), Problem> {
    // Before any thread starts, because it clears environment variables.
    let passed = Passed::from_environment()?;
    let config = loaded.config.clone();
    let log = telemetry::start(&config.log);
    runtime(config.limits.workers)?.block_on(async {
        let stop = CancellationToken::new();
        stop_on_signals(stop.clone())?;
        let bound = Bound::with_sockets(config, passed).await?;
        let (mut reloader, sources, log) = (bound.reloader()?, settings.sources(), log.reload());
        reload_on_hangup(move || reloader.reload(&sources, &log))?;
        let file = loaded.file.as_ref();
        let file = file.map_or("no configuration file".into(), |file| {
            format!("configuration file {}", file.display())
        });
        bound
            .with_remarks(format!("version {VERSION}, {file}"), loaded.warnings())
            .run(stop)
            .await
    })
}

/// Starts no log, because the picture owns the terminal.
fn run_demo(options: demo::Options) -> Result<(), Problem> {
    runtime(Workers::Auto)?.block_on(async {
        let stop = CancellationToken::new();
        stop_on_signals(stop.clone())?;
        demo::run(options, stop).await
    })
}

fn run_simulator(Simulate { listen, settings }: Simulate) -> Result<(), Problem> {
    let _log = telemetry::start(&config::Log::default());
    runtime(Workers::Auto)?.block_on(async {
        let stop = CancellationToken::new();
        stop_on_signals(stop.clone())?;
        let listener = tokio::net::TcpListener::bind(listen)
            .await
            .map_err(|error| format!("--listen: cannot listen on {listen}: {error}"))?;
        Ok(Simulator::new(settings)
            .run(listener, stop.cancelled_owned())
            .await?)
    })
}

fn completions(shell: Shell) -> Result<(), Problem> {
    // Buffered: the generator panics when a write fails, for example because a pager has quit.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pollgate", &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}

fn man(folder: Option<&Path>) -> Result<(), Problem> {
    match folder {
        Some(folder) => manual::write(Cli::command(), folder),
        None => manual::print(Cli::command(), &mut std::io::stdout()),
    }
}

fn runtime(workers: Workers) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers.count())
        .enable_all()
        .build()
}
