//! The command line, and the messages for mistakes in it.

use std::fs;
use std::path::Path;

use crate::support::{Gateway, Reply, Upstream, binary, row};

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Said {
    let output = binary()
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .expect("runs");
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn check_prints_the_effective_configuration_and_where_it_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("my.toml");
    fs::write(&file, "# mine\n[cache]\nfailed_ttl = \"1m\"\nsucceeded_ttl = \"1h\"\n\n[listen]\nadmin = \"off\"\n").unwrap();
    let file = file.to_str().unwrap();
    let said = run(
        &["check", "--config", file, "--listen", "127.0.0.1:0"],
        &[
            ("POLLGATE_CACHE__SUCCEEDED_TTL", "6h"),
            ("POLLGATE_LIMITS__MAX_UPSTREAM", "3"),
        ],
    );
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    for line in [
        &format!("failed_ttl = \"1m\" # {file}:3"),
        &format!("admin = \"off\" # {file}:7"),
        "succeeded_ttl = \"6h\" # environment POLLGATE_CACHE__SUCCEEDED_TTL",
        "max_upstream = 3 # environment POLLGATE_LIMITS__MAX_UPSTREAM",
        "address = \"127.0.0.1:0\" # flag --listen",
        "url = \"https://octopusx.ai\"",
        "capacity = \"64MiB\"",
    ] {
        assert!(
            said.out.lines().any(|told| told == line),
            "{line} is not in\n{}",
            said.out
        );
    }
    // The environment may name the file as well, and the output is valid input.
    let shown = folder.path().join("shown.toml");
    fs::write(&shown, &said.out).unwrap();
    let again = run(&["check"], &[("POLLGATE_CONFIG", shown.to_str().unwrap())]);
    let settings = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.split(" # ").next().unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(settings(&again.out), settings(&said.out));
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn a_wrong_configuration_is_exit_2_with_one_message_before_any_port_is_bound() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.toml");
    let name = file.to_str().unwrap();
    for (content, told) in [
        (
            "[cache]\n\nsucceded_ttl = \"1h\"\n",
            ":3: unknown key cache.succeded_ttl; did you mean cache.succeeded_ttl?",
        ),
        (
            "[cash]\ncapacity = \"1MiB\"\n",
            ":2: unknown key cash.capacity; did you mean cache.capacity?",
        ),
        (
            "[cache]\nsucceeded_ttl = 12\n",
            ":2: cache.succeeded_ttl: got 12, takes a duration such as \"12h\"",
        ),
        (
            "[cache]\ncapacity = \"64 parsecs\"\n",
            ":2: cache.capacity: got \"64 parsecs\", takes a size such as \"64MiB\"",
        ),
        (
            "[limits]\nmax_upstream = 0\n",
            ":2: limits.max_upstream: got 0, takes a whole number above zero",
        ),
        (
            "[upstream]\nurl = \"octopusx.ai\"\n",
            ":2: upstream.url: got \"octopusx.ai\", takes an http or https URL",
        ),
        (
            "[upstream]\ndialect = \"klingon\"\n",
            ":2: upstream.dialect: got \"klingon\", takes one of \"match\", \"unified\", \"openai\"",
        ),
        (
            "[answers]\nrendering = \"x\"\n",
            ":2: answers.rendering: got \"x\", takes one of \"faithful\", \"documented\", \"verbatim\"",
        ),
        (
            "[listen]\naddress = \"8080\"\n",
            ":2: listen.address: got \"8080\", takes an address with a port",
        ),
        (
            "[listen]\nadmin = \"0.0.0.0:9090\"\n",
            ":2: listen.admin: got \"0.0.0.0:9090\", takes a loopback address",
        ),
        (
            "[listen]\ntls = { cert = \"a.pem\" }\n",
            ":2: listen.tls.key is missing",
        ),
        (
            "[cache]\nadaptive = \"yes\"\n",
            ":2: cache.adaptive: got \"yes\", takes true or false",
        ),
        (
            "[fleet]\nengine = \"http://h\"\n",
            ":2: fleet.engine: got \"http://h\", takes redis://host:port/database",
        ),
        (
            "[fleet]\nengine = \"redis://user:hunter2@:1\"\n",
            ":2: fleet.engine: got a text with a user or a query in it (not repeated here), takes redis://",
        ),
        (
            "[fleet]\nengine = \"redis://h\"\n",
            ":2: fleet.engine: got \"redis://h\", takes fleet.secret_file beside it",
        ),
        (
            "[fleet]\nname = \"a b\"\n",
            ":2: fleet.name: got \"a b\", takes up to 64 letters",
        ),
        (
            "[fleet]\nlease = \"1m\"\n",
            ":2: fleet.lease: got \"1m\", takes a duration from \"100ms\" to \"10s\"",
        ),
        (
            "[fleet]\nshare = [\"answer\"]\n",
            ":2: fleet.share: got [\"answer\"], takes one of \"answers\", \"pauses\", \"cadence\"",
        ),
        (
            "[fleet]\nshare = [\"cadence\"]\n",
            ":2: fleet.share: got [\"cadence\"], takes \"answers\" beside \"cadence\"",
        ),
        (
            "[fleet]\nalone = \"loud\"\n",
            ":2: fleet.alone: got \"loud\", takes \"same\" or \"modest\"",
        ),
        (
            "[fleet]\ncert = \"c.pem\"\n",
            ":2: fleet.cert: got \"c.pem\", takes fleet.key beside it",
        ),
        (
            "[fleet]\nsentinel = { name = \"x\" }\n",
            ":2: fleet.sentinel.hosts is missing: fleet.sentinel takes both name and hosts",
        ),
        (
            "[fleet]\nengine = \"redis://h\"\nsecret_file = \"no-such.key\"\n",
            ":3: fleet.secret_file: got \"no-such.key\": ",
        ),
        ("cache = 5\n", ":1: cache: got 5, takes a section"),
        (
            "[[cache]]\ncapacity = \"1MiB\"\n",
            ":1: cache: got [{ capacity = \"1MiB\" }], takes one section",
        ),
        (
            "[limits]\nsucceeded_ttl = \"1h\"\n",
            ":2: unknown key limits.succeeded_ttl; did you mean cache.succeeded_ttl?",
        ),
        (
            "[upstream]\nurl = \"http://h/?key=secret\"\n",
            ":2: upstream.url: got a text with a user or a query in it",
        ),
        (
            "[upstream]\nca_file = \"no-such.pem\"\n",
            ":2: upstream.ca_file: got \"no-such.pem\", takes a PEM file",
        ),
        ("[log\n", ":1: not valid TOML"),
        (
            "[log]\nlevel = \"info\"\nlevel = \"warn\"\n",
            ":3: not valid TOML: log.level is set twice, first in line 2",
        ),
        (
            "[log]\n[cache]\n[log]\n",
            ":3: not valid TOML: log is set twice, first in line 1",
        ),
        (
            "[[route]]\nname = \"a\"\n[[route]]\nname = \"b\"\nname = \"c\"\n",
            ":5: not valid TOML: route.name is set twice, first in line 4",
        ),
        (
            "[listen]\naddress = \"0.0.0.0:9090\"\nadmin = \"127.0.0.1:9090\"\n",
            ":3: listen.admin: got \"127.0.0.1:9090\", takes an address and port that listen.address does not take",
        ),
    ] {
        fs::write(&file, content).unwrap();
        // A port that cannot be bound is exit 1, so the configuration was read first.
        let said = run(
            &["serve", "--config", name, "--listen", "203.0.113.1:1"],
            &[],
        );
        let listen_is_theirs = content.contains("address");
        let said = if listen_is_theirs {
            run(&["serve", "--config", name], &[])
        } else {
            said
        };
        assert_eq!(
            (said.code, said.out.as_str()),
            (Some(2), ""),
            "{content}: {}",
            said.err
        );
        assert_eq!(said.err.lines().count(), 1, "{}", said.err);
        assert!(
            said.err.starts_with(&format!("pollgate: {name}{told}")),
            "{content}\n{}\n{told}",
            said.err
        );
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn a_wrong_route_is_told_with_its_line_its_name_and_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.toml");
    let name = file.to_str().unwrap();
    let x = |keys: &str| format!("[[route]]\nname = \"x\"\n{keys}");
    for (content, told) in [
        (
            "[routes]\npresets = [\"mj\", \"klng\"]\n".to_owned(),
            ":2: routes.presets: there is no preset \"klng\"; there are octopus, mj, kling,",
        ),
        (
            "[routes]\npresets = \"mj\"\n".to_owned(),
            ":2: routes.presets: got \"mj\", takes a list",
        ),
        (
            "[[routes]]\nname = \"x\"\n".to_owned(),
            ":1: routes: a route of your own is written [[route]]",
        ),
        (
            "[route]\nname = \"x\"\npath = \"/x/{id}\"\n".to_owned(),
            ":1: route: each route is a section of its own, with two brackets: [[route]]",
        ),
        (
            "route = \"x\"\n".to_owned(),
            ":1: route: each route is a section of its own",
        ),
        (
            "[[route]]\npath = \"/x/{id}\"\n".to_owned(),
            ":1: route: name: it is missing",
        ),
        (
            "[[route]]\nname = \"klng\"\nmax_ttl = \"1h\"\n".to_owned(),
            ":1: route \"klng\": path: it is missing; did you mean the preset \"kling\"?",
        ),
        (
            "[[route]]\nname = \"My Route\"\npath = \"/x/{id}\"\n".to_owned(),
            ":2: route \"My Route\": name: got \"My Route\", takes up to 32 of a-z",
        ),
        (
            x("path = \"/x/{id}\"\n\nresults = \"/a\"\n"),
            ":5: route \"x\": unknown key results; did you mean result?",
        ),
        (
            x("path = \"/x/:id\"\n"),
            ":3: route \"x\": path: got \"/x/:id\", takes {id} where the task is",
        ),
        (
            x("path = \"/x?id={id}\"\n"),
            ":3: route \"x\": path: got \"/x?id={id}\", but no path can hold '?'; an id in the query is told by id = \"query:NAME\"",
        ),
        (
            x("path = \"https://h/x/{id}\"\n"),
            ":3: route \"x\": path: got \"https://h/x/{id}\", takes a path that begins with /",
        ),
        (
            x("path = \"/x\"\nid = \"task_id\"\n"),
            ":4: route \"x\": id: got \"task_id\", takes \"query:NAME\" or \"body:/POINTER\"",
        ),
        (
            x("path = \"/x\"\nid = \"body:/id\"\nmethod = \"post\"\n"),
            ":5: route \"x\": method: got \"post\", takes \"GET\" or \"POST\"",
        ),
        (
            x("path = \"/x/{id}\"\n\n# JSONPath\nstatus = \"$.data.status\"\n"),
            ":6: route \"x\": status: got \"$.data.status\", takes a JSON pointer, which begins with /",
        ),
        (
            x("path = \"/x/{id}\"\nmax_ttl = 3600\n"),
            ":4: route \"x\": max_ttl: got 3600, takes a duration such as \"50m\"",
        ),
        (
            x("path = \"/x/{id}\"\nkeep = \"none\"\n"),
            ":4: route \"x\": keep: got \"none\", takes \"task\" or \"share\"",
        ),
        (
            x("path = \"/x/{id}\"\nunless = \"a=b\"\n"),
            ":4: route \"x\": unless: got \"a=b\", takes the name of a query parameter",
        ),
        (
            x("path = \"/v1/tasks/{task}\"\nid = \"query:id\"\n"),
            ":3: route \"x\": path: /v1/tasks/{task} matches requests of route \"tasks\" too, which has /v1/tasks/{id}; to change a preset, give the route its name",
        ),
        (
            x("path = \"/x/{id}\"\n[[route]]\nname = \"x\"\npath = \"/y/{id}\"\n"),
            ":5: route \"x\": name: another route has it already",
        ),
        (
            x("path = [\"/x/{id}\", 7]\n"),
            ":3: route \"x\": path: got [\"/x/{id}\", 7], takes a text or a list of texts",
        ),
    ] {
        fs::write(&file, &content).unwrap();
        let said = run(&["check", "--config", name], &[]);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{content}");
        assert_eq!(said.err.lines().count(), 1, "{}", said.err);
        assert!(
            said.err.starts_with(&format!("pollgate: {name}{told}")),
            "{content}\n{}\n{told}",
            said.err
        );
    }
    for (variable, told) in [
        (
            "POLLGATE_ROUTES__PRESETS",
            "routes.presets: there is no preset \"x\"",
        ),
        (
            "POLLGATE_ROUTE__NAME",
            "routes of your own are in the file only, as [[route]]",
        ),
    ] {
        let said = run(&["check"], &[(variable, "x")]);
        assert_eq!(said.code, Some(2));
        assert!(
            said.err.contains(variable) && said.err.contains(told),
            "{}",
            said.err
        );
    }
}

#[test]
fn check_shows_the_routes_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("my.toml");
    let text = "[routes]\npresets = [\"mj\", \"jimeng\"]\n[[route]]\nname = \"mj\"\nmax_ttl = \"1h\"\n\n[[route]]\nname = \"own\"\npath = \"/own\"\nid = \"query:job\"\n";
    fs::write(&file, text).unwrap();
    let name = file.to_str().unwrap();
    let said = run(&["check", "--config", name], &[]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    let (settings, table) = said.out.split_once("\n# Status routes in force").unwrap();
    assert!(
        settings.contains(&format!(
            "\n[[route]]\nmax_ttl = \"1h\" # {name}:5\nname = \"mj\" # {name}:4\n"
        )),
        "{settings}"
    );
    let lines: Vec<_> = table
        .lines()
        .skip(1)
        .map(|line| line.trim_start_matches("# ").trim())
        .collect();
    let columns = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<_> = lines.into_iter().map(columns).collect();
    assert_eq!(
        lines,
        [
            "unified GET path /v1/video/generations/{id}",
            "openai GET path /v1/videos/{id}",
            "mj GET path /mj/task/{id}/fetch",
            "/{mode}/mj/task/{id}/fetch",
            "jimeng POST body:/task_id /jimeng/",
            "/jm",
            "when Action=CVSync2AsyncGetResult",
            "own GET query:job /own",
        ]
    );
    let said = run(&["check", "--config", name, "--format", "json"], &[]);
    let told: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let routes = told["routes_in_force"].as_array().unwrap();
    assert_eq!(routes.len(), 5);
    assert_eq!(
        routes[3],
        serde_json::json!({
            "name": "jimeng",
            "method": "POST",
            "id": "body:/task_id",
            "paths": ["/jimeng/", "/jm"],
            "conditions": ["when Action=CVSync2AsyncGetResult"],
        })
    );
    assert_eq!(told["origins"]["route[0].max_ttl"], format!("{name}:5"));
}

#[test]
fn all_mistakes_are_told_a_line_each() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.toml");
    let name = file.to_str().unwrap();
    fs::write(&file, "[cache]\nsucceded_ttl = \"1h\"\ncapacity = 5\n").unwrap();
    let said = run(
        &["check", "--upstream", "ftp://x"],
        &[("POLLGATE_CONFIG", name), ("POLLGATE_LOG__LEVEL", "loud")],
    );
    assert_eq!((said.code, said.out.as_str()), (Some(2), ""));
    let lines: Vec<_> = said.err.lines().collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    for (line, told) in lines.iter().zip([
        &format!("pollgate: {name}:2: unknown key cache.succeded_ttl"),
        &format!("pollgate: {name}:3: cache.capacity: got 5"),
        "pollgate: environment POLLGATE_LOG__LEVEL: log.level",
        "pollgate: flag --upstream: upstream.url",
    ]) {
        assert!(line.starts_with(told), "{line}: {told}");
    }
}

#[test]
fn short_names_of_the_environment_stand_for_the_flags() {
    let said = run(
        &["check", "--admin", "off"],
        &[
            ("POLLGATE_LISTEN", "127.0.0.1:7"),
            ("POLLGATE_UPSTREAM", "http://127.0.0.1:1"),
            ("POLLGATE_ADMIN", "127.0.0.1:8"),
            ("POLLGATE_CONFIG", ""),
            ("POLLGATE_CACHE__CAPACITY", ""),
        ],
    );
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    for line in [
        "address = \"127.0.0.1:7\" # environment POLLGATE_LISTEN",
        "url = \"http://127.0.0.1:1\" # environment POLLGATE_UPSTREAM",
        "admin = \"off\" # flag --admin",
        "capacity = \"64MiB\"",
    ] {
        assert!(said.out.lines().any(|told| told == line), "{}", said.out);
    }
}

#[test]
fn what_is_hardly_meant_is_warned_of_and_exit_0() {
    let said = run(
        &["check", "--upstream", "https://octopusx.ai/v1"],
        &[
            ("POLLGATE_ADMIN", "0.0.0.0:9090"),
            ("POLLGATE_LISTEN__ADMIN_PUBLIC", "true"),
        ],
    );
    assert_eq!(said.code, Some(0), "{}", said.err);
    let lines: Vec<_> = said.err.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for told in [
        "pollgate: warning: flag --upstream: upstream.url: ends in /v1",
        "pollgate: warning: environment POLLGATE_ADMIN: listen.admin: 0.0.0.0:9090 is reachable",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(told)), "{lines:?}");
    }
}

#[test]
fn check_speaks_json_to_programs() {
    let read = |said: &Said| -> serde_json::Value {
        assert_eq!(said.err, "");
        serde_json::from_str(&said.out).expect("JSON")
    };
    let arguments = ["check", "--format", "json", "--listen", "127.0.0.1:7"];
    let good = run(
        &arguments,
        &[("HTTPS_PROXY", "http://me:hunter2@proxy.test:1")],
    );
    assert_eq!(good.code, Some(0));
    let told = read(&good);
    assert_eq!(told["valid"], true);
    assert_eq!(told["settings"]["listen"]["address"], "127.0.0.1:7");
    assert_eq!(told["settings"]["cache"]["adaptive"], true);
    assert_eq!(told["origins"]["listen.address"], "flag --listen");
    assert_eq!(told["warnings"], serde_json::json!([]));
    assert_eq!(
        told["proxy"],
        "http://proxy.test:1 (environment HTTPS_PROXY)"
    );
    assert!(!good.out.contains("hunter2"));

    let bad = run(
        &arguments,
        &[
            ("POLLGATE_LOG__LEVEL", "loud"),
            ("POLLGATE_CACHE__CAPACITY", "much"),
        ],
    );
    assert_eq!(bad.code, Some(2));
    let told = read(&bad);
    assert_eq!(told["valid"], false);
    let errors = told["errors"].as_array().expect("a list");
    assert_eq!(errors.len(), 2, "{errors:?}");

    let missing = [("POLLGATE_UPSTREAM__CA_FILE", "no-such.pem")];
    let missing = run(&arguments, &missing);
    assert_eq!(missing.code, Some(2));
    let told = read(&missing);
    let error = told["errors"][0].as_str().expect("a text");
    assert!(
        error.starts_with("environment POLLGATE_UPSTREAM__CA_FILE: upstream.ca_file: got"),
        "{error}"
    );
}

/// Written anew with `POLLGATE_WRITE_SCHEMA=1 cargo test --test it schema`.
#[test]
fn the_schema_for_editors_is_that_of_the_program() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pollgate.schema.json");
    let schema = pollgate::config::schema().expect("is written");
    if std::env::var_os("POLLGATE_WRITE_SCHEMA").is_some() {
        fs::write(&file, &schema).unwrap();
    }
    let shipped = fs::read_to_string(&file).expect("is there");
    assert_eq!(shipped, schema);

    // Every default is one that its own schema takes.
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    let mut patterns = 0;
    for (name, section) in schema["properties"].as_object().unwrap() {
        // `[[route]]` is a list, and has no defaults.
        for (key, value) in section["properties"].as_object().into_iter().flatten() {
            let Some(default) = value.get("default") else {
                continue;
            };
            if let Some(pattern) = value["pattern"].as_str() {
                let text = default.as_str().expect("a text");
                let pattern = regex_lite::Regex::new(pattern).expect("a pattern");
                assert!(pattern.is_match(text), "{name}.{key}: {text}");
                assert!(!pattern.is_match("soon"), "{name}.{key}");
                patterns += 1;
            }
            if let Some(choices) = value["enum"].as_array() {
                assert!(choices.contains(default), "{name}.{key}");
            }
        }
    }
    assert!(patterns > 10, "only {patterns}");
}

#[test]
fn wrong_names_in_the_environment_wrong_flags_and_missing_files_are_exit_2() {
    for (arguments, environment, told) in [
        (
            &["check"][..],
            &[("POLLGATE_CACHE__CAPACTY", "1MiB")][..],
            "did you mean POLLGATE_CACHE__CAPACITY?",
        ),
        (
            &["check", "--upstream", "ftp://x"],
            &[],
            "flag --upstream: upstream.url: got \"ftp://x\"",
        ),
        (
            &["check", "--config", "no-such.toml"],
            &[],
            "no-such.toml: cannot be read",
        ),
        (&["--lissten", "127.0.0.1:1"], &[], "--listen"),
        (&["sing"], &[], "sing"),
    ] {
        let said = run(arguments, environment);
        assert_eq!(said.code, Some(2), "{arguments:?}: {}", said.err);
        assert!(said.err.contains(told), "{arguments:?}: {}", said.err);
    }
}

#[test]
fn files_named_in_the_configuration_are_read_before_ports_are_bound() {
    let missing = [("POLLGATE_UPSTREAM__CA_FILE", "no-such.pem")];
    let said = run(&["--listen", "127.0.0.1:0", "--admin", "off"], &missing);
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(
        said.err.contains("upstream.ca_file") && said.err.contains("no-such.pem"),
        "{}",
        said.err
    );
}

#[test]
fn help_and_version_answer_on_standard_output() {
    let help = run(&["--help"], &[]);
    assert_eq!(help.code, Some(0));
    for word in [
        "serve",
        "check",
        "demo",
        "simulate",
        "--config",
        "--listen",
        "--admin",
        "--upstream",
        "POLLGATE_",
    ] {
        assert!(help.out.contains(word), "{word}: {}", help.out);
    }
    let version = run(&["--version"], &[]).out;
    let rest = version
        .trim()
        .strip_prefix(concat!("pollgate ", env!("CARGO_PKG_VERSION")))
        .expect("the version");
    // A release names its commit, where the build knew it.
    let commit = rest.trim().trim_start_matches('(').trim_end_matches(')');
    assert!(
        rest.is_empty() || (commit.len() == 12 && u64::from_str_radix(commit, 16).is_ok()),
        "{version}"
    );
    assert!(!cfg!(debug_assertions) || rest.is_empty(), "{version}");
}

#[test]
fn a_command_offers_only_what_it_uses() {
    for (arguments, offered) in [
        (&["health", "--listen", "127.0.0.1:1"][..], false),
        (&["health", "--upstream", "http://a.test"], false),
        (&["health", "--config", "no-such.toml"], true),
        (&["serve", "--format", "json"], false),
    ] {
        let said = run(arguments, &[]);
        assert_eq!(said.code, Some(2), "{arguments:?}");
        let refused = said.err.contains("unexpected argument");
        assert_eq!(refused, !offered, "{arguments:?}: {}", said.err);
    }
}

#[test]
fn completions_complete() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell], &[]);
        assert_eq!((script.code, script.err.as_str()), (Some(0), ""), "{shell}");
        assert!(script.out.contains("upstream"), "{shell}");
    }
    let file = folder.path().join("pollgate.bash");
    fs::write(&file, run(&["completions", "bash"], &[]).out).unwrap();
    let offered = |words: &str, at: usize| {
        let script = format!(
            r#"source "$0"; COMP_WORDS=(pollgate {words} ""); COMP_CWORD={at}; _pollgate pollgate "" ""; echo "${{COMPREPLY[@]}}""#
        );
        let output = std::process::Command::new("bash")
            .args(["-euc", &script])
            .arg(&file)
            .output()
            .expect("bash runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let commands = offered("", 1);
    for command in ["serve", "check", "demo", "simulate", "health", "--listen"] {
        assert!(commands.split_whitespace().any(|word| word == command));
    }
    assert!(offered("simulate", 2).contains("--lifetime"));
    // Files and folders are offered where they are meant, and nowhere else.
    let beside = |flag: &str, word: &str| {
        let script = format!(
            r#"compopt() {{ :; }}; source "$0"; cd "$1"; COMP_WORDS=(pollgate serve {flag} "{word}"); COMP_CWORD=3; _pollgate pollgate "{word}" {flag}; echo "${{COMPREPLY[@]}}""#
        );
        let output = std::process::Command::new("bash")
            .args(["-euc", &script])
            .args([&file, folder.path()])
            .output()
            .expect("bash runs");
        String::from_utf8(output.stdout).expect("text")
    };
    fs::write(folder.path().join("my.toml"), "").unwrap();
    assert!(beside("--config", "my").contains("my.toml"));
    for flag in ["--listen", "--admin", "--upstream"] {
        assert!(!beside(flag, "my").contains("my.toml"), "{flag}");
    }
}

#[test]
fn every_command_has_a_manual_page_that_troff_understands() {
    let folder = tempfile::tempdir().unwrap();
    let printed = run(&["man"], &[]);
    assert_eq!((printed.code, printed.err.as_str()), (Some(0), ""));
    // The folder is made where there is none.
    let pages = folder.path().join("share/man");
    let written = run(&["man", pages.to_str().unwrap()], &[]);
    assert_eq!(
        (written.code, written.out.as_str()),
        (Some(0), ""),
        "{}",
        written.err
    );
    let read = |name: &str| fs::read_to_string(pages.join(name)).unwrap();
    let main = read("pollgate.1");
    assert_eq!(main, printed.out);
    for name in [
        "pollgate.1",
        "pollgate-serve.1",
        "pollgate-check.1",
        "pollgate-health.1",
    ] {
        for section in [
            "OPTIONS",
            "FILES",
            "ENVIRONMENT",
            "\"EXIT STATUS\"",
            "\"SEE ALSO\"",
        ] {
            let heading = format!(".SH {section}\n");
            assert!(read(name).contains(&heading), "{name}: {section}");
        }
    }
    assert!(read("pollgate-simulate.1").contains(".SH \"EXIT STATUS\"\n"));
    assert!(main.contains(".SH NOTES\n") && !main.contains(".SH EXTRA"));
    // pollgate.toml(5) is made of the shipped file.
    let configuration = read("pollgate.toml.5");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pollgate.toml");
    let shipped = fs::read_to_string(shipped).unwrap();
    let (settings, _) = shipped.split_once("# [[route]]").unwrap();
    for line in settings.lines() {
        let line = line.trim_start_matches("# ");
        if let Some((key, _)) = line.split_once(" = ").filter(|_| line.contains(" # ")) {
            assert!(
                configuration.contains(&format!("\\fB{key}\\fR = ")),
                "{key}"
            );
        }
    }
    let (_, routes) = configuration.split_once(".SH [[ROUTE]]\n").unwrap();
    for (key, text) in pollgate::route::KEYS {
        let words = text.split(['-', '\'']).next().unwrap();
        assert!(
            routes.contains(&format!(".TP\n\\fB{key}\\fR\n{words}")),
            "{key} is not in {routes}"
        );
    }
    let in_the_way = folder.path().join("file");
    fs::write(&in_the_way, "").unwrap();
    let refused = run(&["man", in_the_way.to_str().unwrap()], &[]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.err.contains(in_the_way.to_str().unwrap()),
        "{}",
        refused.err
    );

    let pages: Vec<_> = fs::read_dir(&pages)
        .unwrap()
        .map(|page| page.unwrap().path())
        .collect();
    assert!(pages.len() >= 5, "{pages:?}");
    for command in ["serve", "check", "demo", "simulate"] {
        let name = format!("pollgate-{command}.1");
        assert!(pages.iter().any(|page| page.ends_with(&name)), "{name}");
    }
    // Without troff, the formatter's own tests have to suffice.
    let troff = std::process::Command::new("groff")
        .args(["-man", "-ww", "-z"])
        .args(&pages)
        .output();
    if let Ok(troff) = troff {
        let said = String::from_utf8_lossy(&troff.stderr);
        assert!(troff.status.success() && said.is_empty(), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_exits_0_where_a_gateway_runs_and_1_where_none_does() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let mut gateway = Gateway::start(&upstream.url(), &[]).await;
    let admin = gateway.admin.to_string();
    let everywhere = format!("0.0.0.0:{}", gateway.admin.port());
    let alive = run(&["health", "--admin", &admin], &[]);
    assert_eq!((alive.code, alive.err.as_str()), (Some(0), ""));
    let public = [("POLLGATE_LISTEN__ADMIN_PUBLIC", "true")];
    assert_eq!(
        run(&["health", "--admin", &everywhere], &public).code,
        Some(0)
    );
    // A server that does not answer as an admin listener is not one.
    let upstream = Upstream::start(|_| Reply::new(404, "text/plain", "no")).await;
    let other = run(&["health", "--admin", &upstream.address.to_string()], &[]);
    assert_eq!(other.code, Some(1));
    assert!(other.err.contains("answers HTTP/1.1 404"), "{}", other.err);
    gateway.signal("-TERM");
    gateway.ended().await;
    let gone = run(&["health", "--admin", &admin], &[]);
    assert_eq!(gone.code, Some(1));
    assert!(gone.err.contains("does not answer"), "{}", gone.err);
    let off = run(&["health", "--admin", "off"], &[]);
    assert_eq!(off.code, Some(1));
    assert!(off.err.contains("listen.admin is off"), "{}", off.err);
}
