//! The manual: one page for each command, made from its flags, and pollgate.toml(5), made from the shipped configuration
//! file.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use crate::config::example;
use crate::gateway::Problem;
use crate::route::{KEYS, presets};

/// The commands that read the configuration.
const CONFIGURED: [&str; 4] = [
    "pollgate",
    "pollgate-check",
    "pollgate-health",
    "pollgate-serve",
];

const FILE: &str = "pollgate.toml.5";

/// Writes pollgate(1).
pub(super) fn print(command: Command, to: &mut impl Write) -> Result<(), Problem> {
    Ok(page(built(command), to)?)
}

/// Writes all pages to a folder, which is created if necessary.
pub(super) fn write(command: Command, folder: &Path) -> Result<(), Problem> {
    let failed = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    let into = |name: &str, page: &mut dyn FnMut(&mut BufWriter<File>) -> io::Result<()>| {
        let path = folder.join(name);
        let written = File::create(&path).and_then(|file| {
            let mut file = BufWriter::new(file);
            page(&mut file).and_then(|()| file.flush())
        });
        written.map_err(|error| failed(&path, error))
    };
    let command = built(command);
    for each in command.get_subcommands().chain([&command]) {
        let name = each.get_display_name().unwrap_or_else(|| each.get_name());
        into(&format!("{name}.1"), &mut |file| page(each.clone(), file))?;
    }
    into(FILE, &mut |file| configuration_page(file))?;
    Ok(())
}

fn built(command: Command) -> Command {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    command
}

fn page(command: Command, to: &mut impl Write) -> io::Result<()> {
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
        .to_owned();
    let has_commands = command.has_subcommands();
    let has_version = command.get_version().is_some();
    let extra = command.get_after_help().is_some() || command.get_after_long_help().is_some();
    let man = Man::new(command);
    man.render_title(to)?;
    man.render_name_section(to)?;
    man.render_synopsis_section(to)?;
    man.render_description_section(to)?;
    man.render_options_section(to)?;
    if has_commands {
        man.render_subcommands_section(to)?;
    }
    let mut roff = Roff::new();
    if CONFIGURED.contains(&name.as_str()) {
        environment(&mut roff);
        files(&mut roff);
    }
    exit_status(&mut roff, &name);
    roff.to_writer(to)?;
    if extra {
        let mut notes = Vec::new();
        man.render_extra_section(&mut notes)?;
        // The heading that is usual for it, see man-pages(7).
        let notes = String::from_utf8_lossy(&notes).replacen(".SH EXTRA", ".SH NOTES", 1);
        to.write_all(notes.as_bytes())?;
    }
    let mut roff = Roff::new();
    see_also(&mut roff, &name);
    roff.to_writer(to)?;
    if has_version {
        man.render_version_section(to)?;
    }
    Ok(())
}

fn definition(roff: &mut Roff, term: impl Into<Vec<Inline>>, text: &str) {
    roff.control("TP", []);
    roff.text(term.into());
    roff.text([roman(text)]);
}

fn environment(roff: &mut Roff) {
    roff.control("SH", ["ENVIRONMENT"]);
    roff.text([roman(
        "Flags override the environment, and the environment overrides the file. An empty variable counts as not set.",
    )]);
    for (name, text) in [
        (
            "POLLGATE_CONFIG",
            "Path of the configuration file, as --config.",
        ),
        ("POLLGATE_LISTEN", "Address for clients, as --listen."),
        (
            "POLLGATE_ADMIN",
            "Address for metrics and health, or \"off\", as --admin.",
        ),
        (
            "POLLGATE_UPSTREAM",
            "URL of the API behind the gateway, as --upstream.",
        ),
    ] {
        definition(roff, [bold(name)], text);
    }
    definition(
        roff,
        [
            bold("POLLGATE_"),
            italic("SECTION"),
            bold("__"),
            italic("KEY"),
        ],
        "Any key of pollgate.toml(5), such as POLLGATE_CACHE__SUCCEEDED_TTL=6h for succeeded_ttl in [cache]. Lists are \
         written with commas.",
    );
    definition(
        roff,
        [
            bold("HTTPS_PROXY"),
            roman(", "),
            bold("HTTP_PROXY"),
            roman(", "),
            bold("ALL_PROXY"),
            roman(", "),
            bold("NO_PROXY"),
        ],
        "The proxy for upstream connections, and what is reached without it.",
    );
    definition(
        roff,
        [
            bold("LISTEN_FDS"),
            roman(", "),
            bold("LISTEN_PID"),
            roman(", "),
            bold("LISTEN_FDNAMES"),
        ],
        "Listening sockets that the supervisor passes, as in sd_listen_fds(3); their names are \"clients\" and \"admin\".",
    );
    definition(
        roff,
        [
            bold("NOTIFY_SOCKET"),
            roman(", "),
            bold("WATCHDOG_USEC"),
            roman(", "),
            bold("JOURNAL_STREAM"),
        ],
        "Set by systemd, which is notified of the start, reloads and the end, and given a priority for each line of the log.",
    );
}

fn files(roff: &mut Roff) {
    roff.control("SH", ["FILES"]);
    definition(
        roff,
        [italic("/etc/pollgate/pollgate.toml")],
        "The configuration file of the packaged service; see pollgate.toml(5). pollgate itself reads no file unless \
         --config or POLLGATE_CONFIG names one.",
    );
}

fn exit_status(roff: &mut Roff, name: &str) {
    roff.control("SH", ["EXIT STATUS"]);
    let failure = match name {
        "pollgate-health" => "The gateway does not answer, or is not well.",
        "pollgate-demo" => "An answer was wrong, or the demo failed while running.",
        _ => "Failure while running, such as a port that cannot be bound.",
    };
    definition(roff, [bold("0")], "Success.");
    definition(roff, [bold("1")], failure);
    definition(roff, [bold("2")], "Bad usage or configuration.");
}

fn see_also(roff: &mut Roff, name: &str) {
    roff.control("SH", ["SEE ALSO"]);
    let page = match name {
        "pollgate" => "pollgate-serve(1)",
        _ => "pollgate(1)",
    };
    roff.text([roman(format!("{page}, pollgate.toml(5)"))]);
}

fn routes(roff: &mut Roff) {
    roff.control("SH", ["[[ROUTE]]"]);
    roff.text([roman(
        "Each is a status route of your own, or changes the preset of that name and turns it on. Pointers are JSON pointers \
         (RFC 6901); one text stands for a list of one. \"pollgate check\" shows the routes in force. The presets are:",
    )]);
    let names: Vec<_> = presets()
        .iter()
        .map(|preset| preset.name.as_str())
        .collect();
    roff.text([roman(names.join(", ") + ".")]);
    for (key, text) in KEYS {
        definition(roff, [bold(key)], text);
    }
}

/// Writes pollgate.toml(5).
fn configuration_page(to: &mut impl Write) -> io::Result<()> {
    let mut roff = Roff::new();
    let source = concat!("pollgate ", env!("CARGO_PKG_VERSION"));
    roff.control("TH", ["pollgate.toml", "5", "", source]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("pollgate.toml - configuration of pollgate(1)")]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(
        "A TOML file, read where --config or POLLGATE_CONFIG names it. Each key has a name in the environment too: \
         succeeded_ttl in [cache] is POLLGATE_CACHE__SUCCEEDED_TTL. Sizes and durations are written as 64MiB, 12h, \
         500ms. An unknown key is an error. \"pollgate check\" shows what is in force, and the origin of each setting.",
    )]);
    let mut section = String::new();
    for setting in example::settings() {
        if setting.section != section {
            roff.control(
                "SH",
                [format!("[{}]", setting.section).to_uppercase().as_str()],
            );
            section.clone_from(&setting.section);
        }
        roff.control("TP", []);
        roff.text([bold(setting.key), roman(format!(" = {}", setting.value))]);
        let mut comment = setting.comment;
        if !setting.is_default {
            comment.push_str(" (an example; there is no default)");
        }
        let mut lines = comment.lines();
        roff.text([roman(lines.next().unwrap_or_default())]);
        for line in lines {
            roff.control("br", []);
            roff.text([roman(line)]);
        }
    }
    routes(&mut roff);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("pollgate(1), pollgate-check(1)")]);
    roff.to_writer(to)
}
