//! The command line: what can be typed, and what it does.

mod health;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Loaded, Sources};
use crate::daemon::{Bound, Passed, StartProblem, reload_on_hangup, stop_on_signals};
use crate::demo;
use crate::gateway::Problem;
use crate::simulator::{self, Simulator};
use crate::telemetry;

/// Failed while running.
const FAILED: u8 = 1;
/// Bad usage or configuration; clap ends with the same.
const MISUSED: u8 = 2;

/// A caching gateway for video-task status polls: many pollers, one upstream request.
///
/// Clients change their base URL to the gateway's and nothing else. Without a command, `serve`.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

const AFTER_HELP: &str = "\
Settings come from flags, then the environment (POLLGATE_CACHE__SUCCEEDED_TTL=6h), then the file, then the defaults. \
`pollgate check` shows them all and where each came from.

SIGTERM and SIGINT stop it once what is under way is done; SIGHUP reads the file and the certificate again. \
Exit codes: 0 done, 1 failed while running, 2 bad usage or configuration.

Examples:
  pollgate demo                            see it work, without a key
  pollgate                                 serve on 127.0.0.1:8080, metrics on 127.0.0.1:9090
  pollgate simulate                        an upstream to try things with; beside it, then:
  pollgate --upstream http://127.0.0.1:8090";

const DEMO_HELP: &str = "\
Examples:
  pollgate demo                                    20 tasks, 25 pollers each, until Ctrl-C
  pollgate demo --seconds 30 > demo.txt            plain lines, and a summary after half a minute
  pollgate demo --tasks 100 --listen 127.0.0.1:8080";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway (the default).
    Serve(Settings),
    /// Read the configuration and show the effective one as TOML, with where each setting came from.
    Check(Settings),
    /// See it work, without a key or a network: a simulated OctopusX, the gateway, and a crowd of pollers.
    ///
    /// All three run in this process, over real sockets. In a terminal a live picture shows client polls against
    /// upstream polls (plain lines elsewhere). Every answer that a poller gets is checked against what the simulator
    /// knows: the exit code is 1 if one was wrong, went backward, or belonged to someone else.
    #[command(after_help = DEMO_HELP)]
    Demo(demo::Options),
    /// Run a simulated OctopusX, to test pollers without paying for videos.
    Simulate(Simulate),
    /// Ask the admin listener of a running gateway whether it lives (for health checks): exit 0 if it does, else 1.
    Health(Settings),
    /// Print completions for a shell: `source <(pollgate completions bash)`.
    Completions {
        /// The shell they are for.
        shell: Shell,
    },
    /// Print the manual page, or write those of all commands into a folder.
    Man {
        /// Where to, one file for each command; without it, pollgate(1) is printed.
        #[arg(value_name = "FOLDER")]
        folder: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct Simulate {
    /// Where it listens; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    #[command(flatten)]
    settings: simulator::Settings,
}

#[derive(Debug, Clone, Default, Args)]
struct Settings {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "POLLGATE_CONFIG")]
    config: Option<PathBuf>,
    /// Where clients come in [default: 127.0.0.1:8080]; port 0 takes a free one.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where metrics and health are served [default: 127.0.0.1:9090], or "off".
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    #[arg(
        long,
        value_name = "URL",
        help = "The API behind the gateway [default: https://octopusx.ai]; a path prefix is kept"
    )]
    upstream: Option<String>,
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
            // Values that are not UTF-8 are no settings; their names would be caught as unknown.
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

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command.unwrap_or(Command::Serve(cli.settings)) {
        Command::Serve(settings) => with_config(&settings, |loaded| serve(&settings, loaded)),
        Command::Check(settings) => with_config(&settings, check),
        Command::Demo(options) => report(run_demo(options)),
        Command::Simulate(simulate) => report(run_simulator(simulate)),
        Command::Health(settings) => with_config(&settings, |loaded| health::ask(&loaded.config)),
        Command::Completions { shell } => report(completions(shell)),
        Command::Man { folder } => report(man(folder)),
    }
}

fn with_config(settings: &Settings, run: impl FnOnce(&Loaded) -> Result<(), Problem>) -> ExitCode {
    let loaded = match config::load(&settings.sources()) {
        Ok(loaded) => loaded,
        Err(problem) => return complain(&problem, MISUSED),
    };
    let Err(problem) = run(&loaded) else {
        return ExitCode::SUCCESS;
    };
    match problem.downcast_ref() {
        Some(StartProblem::Configuration(problem)) => {
            complain(&loaded.with_location(&problem.to_string()), MISUSED)
        }
        Some(StartProblem::Passed(problem)) => complain(problem, MISUSED),
        _ => complain(&problem, FAILED),
    }
}

fn report(outcome: Result<(), Problem>) -> ExitCode {
    outcome.map_or_else(|problem| complain(&problem, FAILED), |()| ExitCode::SUCCESS)
}

fn complain(problem: &dyn std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("pollgate: {problem}");
    ExitCode::from(code)
}

fn check(loaded: &Loaded) -> Result<(), Problem> {
    Bound::examine(&loaded.config)?;
    Ok(std::io::stdout().write_all(loaded.to_toml()?.as_bytes())?)
}

fn serve(settings: &Settings, loaded: &Loaded) -> Result<(), Problem> {
    // Before there are threads: it reads and clears variables.
    let passed = Passed::from_environment()?;
    let config = loaded.config.clone();
    let log = telemetry::start(&config.log);
    runtime()?.block_on(async {
        let stop = CancellationToken::new();
        stop_on_signals(stop.clone())?;
        let bound = Bound::with_sockets(config, passed).await?;
        let (mut reloader, sources, log) = (bound.reloader()?, settings.sources(), log.reload());
        reload_on_hangup(move || reloader.reload(&sources, &log))?;
        bound.run(stop).await
    })
}

/// Starts no log: the terminal is the picture's.
fn run_demo(options: demo::Options) -> Result<(), Problem> {
    runtime()?.block_on(async {
        let stop = CancellationToken::new();
        stop_on_signals(stop.clone())?;
        demo::run(options, stop).await
    })
}

fn run_simulator(Simulate { listen, settings }: Simulate) -> Result<(), Problem> {
    let _log = telemetry::start(&config::Log::default());
    runtime()?.block_on(async {
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
    // Written at once: the generator panics where its writer fails, and a pager may go away.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pollgate", &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}

fn man(folder: Option<PathBuf>) -> Result<(), Problem> {
    match folder {
        Some(folder) => clap_mangen::generate_to(Cli::command(), folder)?,
        None => clap_mangen::Man::new(Cli::command().disable_help_subcommand(true))
            .render(&mut std::io::stdout())?,
    }
    Ok(())
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
}
