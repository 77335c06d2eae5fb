//! The rows in force, and what a request is by them.

use http::Method;

use super::definition::{Definition, PollMethod, preset, presets};
use super::row::{IdAt, Matched, Mistake, RouteId, Row, StatusRoute, Wrong};
use super::task_id::TaskId;
use super::template::Template;
use crate::message::method::is_safe;
use crate::task::{Dialect, ErrorForm};

/// The most routes that the configuration may have, presets included.
const MOST: usize = 64;

/// The paths of the two routes whose documents convert into one another, and the segments that stand where an id would on
/// them, but name other resources: those of the OpenAI and the xAI API, and the kinds of task in Kling's, each of which is
/// a list with tasks below it.
const CONVERTED: [(Dialect, &str, &[&str]); 2] = [
    (Dialect::Unified, "/v1/video/generations/{id}", &[]),
    (
        Dialect::OpenAi,
        "/v1/videos/{id}",
        &[
            "edits",
            "extensions",
            "characters",
            "generations",
            "text2video",
            "image2video",
            "omni-video",
            "multi-image2video",
            "multi-elements",
            "lip-sync",
            "advanced-lip-sync",
            "identify-face",
            "video-extend",
            "effects",
            "avatar",
            "motion-control",
            "image-recognize",
        ],
    ),
];

/// The rows in force.
#[derive(Debug)]
pub struct Routes {
    rows: Box<[Row]>,
    /// The next number.
    next: u8,
    /// Whether numbers have begun anew, so that one may have been another route's.
    starts_anew: bool,
}

impl Routes {
    /// The two routes that convert, and no other.
    #[must_use]
    pub fn converted() -> Self {
        let rows = CONVERTED.map(|(dialect, path, not_ids)| Row {
            route: StatusRoute::Converted(dialect),
            definition: Definition {
                name: dialect.as_str().into(),
                path: Some(vec![path.into()]),
                ..Definition::default()
            },
            templates: Template::parse(path).into_iter().collect(),
            method: PollMethod::Get,
            id: IdAt::Path,
            when: Box::default(),
            unless: Box::default(),
            not_ids,
            is_told_by_id: true,
        });
        Self {
            rows: rows.into(),
            next: RouteId::FIRST,
            starts_anew: false,
        }
    }

    /// The table of a configuration: the two routes that convert, the presets that it names, and its own routes.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn new(presets: &[String], own: &[Definition]) -> Result<Self, Vec<Mistake>> {
        Self::converted().followed_by(presets, own)
    }

    /// The table of another configuration, with the same numbers for the routes that are the same.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn followed_by(
        &self,
        presets: &[String],
        own: &[Definition],
    ) -> Result<Self, Vec<Mistake>> {
        let (definitions, mut mistakes) = definitions(presets, own);
        let mut table = Self {
            next: self.next,
            ..Self::converted()
        };
        let mut rows = std::mem::take(&mut table.rows).into_vec();
        for definition in definitions {
            let same = |row: &&Row| row.definition == definition;
            let before = self.rows.iter().find(same).map(|row| row.route.clone());
            match Row::new(&definition, before, RouteId(table.next)) {
                Ok(row) => {
                    if row.route.id() == RouteId(table.next) {
                        table.next = self.free_after(table.next);
                        table.starts_anew |= table.next < self.next;
                    }
                    let overlaps = rows.iter().filter_map(|other| row.overlap(other));
                    mistakes.extend(overlaps);
                    rows.push(row);
                }
                Err(wrong) => mistakes.push(Mistake::of(&definition.name, wrong)),
            }
        }
        if rows.len() > MOST + CONVERTED.len() {
            let what = format!(
                "there are {} routes, and can be {MOST}",
                rows.len() - CONVERTED.len()
            );
            mistakes.push(Mistake::of_presets(what));
        }
        if mistakes.is_empty() {
            table.rows = rows.into();
            Ok(table)
        } else {
            Err(mistakes)
        }
    }

    /// The next number that no row of this table has.
    fn free_after(&self, number: u8) -> u8 {
        let next = |number: u8| number.checked_add(1).unwrap_or(RouteId::FIRST);
        let mut free = next(number);
        while self.row(RouteId(free)).is_some() {
            free = next(free);
        }
        free
    }

    /// Whether a number of this table may have been another route's before: what was cached by it must not be shown.
    #[must_use]
    pub const fn starts_anew(&self) -> bool {
        self.starts_anew
    }

    /// What a request is, by its method and raw target.
    #[must_use]
    pub fn read(&self, method: &Method, path: &str, query: Option<&str>) -> Matched {
        // What it says, its row, and the id.
        let mut near: Option<(Option<(bool, usize)>, _, _)> = None;
        for row in &self.rows {
            for template in &row.templates {
                let Some(fit) = template.fit(path) else {
                    continue;
                };
                let id = fit.id.filter(|id| !row.not_ids.contains(id));
                if fit.is_whole
                    && let Some(poll) = row.poll(method, path, query, id)
                {
                    return poll;
                }
                // Of several that fit, the one that says most of the path: `/tasks/{id}` before `/{id}`.
                let offset = |id: &str| id.as_ptr() as usize - path.as_ptr() as usize;
                let says = id.map(|id| (fit.is_whole, offset(id)));
                if near.is_none_or(|(most, ..)| says > most) {
                    near = Some((says, row, id));
                }
            }
        }
        match near {
            Some((_, row, Some(id))) if !is_safe(method) => Matched::Write {
                errors: row.route.errors(),
                task: TaskId::new(id),
            },
            Some((_, row, _)) => Matched::Forward {
                errors: row.route.errors(),
            },
            None => Matched::Forward {
                errors: self.errors(path),
            },
        }
    }

    /// The form in which a client of a path reads errors that is on no route: that of the route above which it is, as
    /// with `/v1/video/generations`, else OpenAI's.
    fn errors(&self, path: &str) -> ErrorForm {
        let is_above = |row: &&Row| {
            let mut templates = row.templates.iter();
            templates.any(|template| {
                let (above, _) = template
                    .as_str()
                    .split_once("/{")
                    .unwrap_or((template.as_str(), ""));
                !above.is_empty() && path.starts_with(above)
            })
        };
        let row = self.rows.iter().find(is_above);
        row.map_or(ErrorForm::OpenAi, |row| row.route.errors())
    }

    /// The rows.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The row of a route.
    #[must_use]
    pub fn row(&self, id: RouteId) -> Option<&Row> {
        self.rows.iter().find(|row| row.route.id() == id)
    }

    /// The path on which a task is polled in this dialect.
    #[must_use]
    pub fn status_path(dialect: Dialect, task: &TaskId) -> String {
        let base = CONVERTED[usize::from(dialect == Dialect::OpenAi)].1;
        let (before, after) = base.split_once("{id}").unwrap_or((base, ""));
        [before, task.as_str(), after].concat()
    }
}

/// The definitions in force, in order, and the mistakes in how they are named.
fn definitions(names: &[String], own: &[Definition]) -> (Vec<Definition>, Vec<Mistake>) {
    let mut mistakes = Vec::new();
    let mut definitions: Vec<Definition> = Vec::new();
    for name in names {
        match preset(name) {
            Some(preset) if definitions.contains(preset) => {}
            Some(preset) => definitions.push(preset.clone()),
            None => {
                let all: Vec<_> = presets().iter().map(|one| one.name.as_str()).collect();
                let what = format!("there is no preset {name:?}; there are {}", all.join(", "));
                mistakes.push(Mistake::of_presets(what));
            }
        }
    }
    for (index, one) in own.iter().enumerate() {
        if own[..index].iter().any(|other| other.name == one.name) {
            let what = "another route has it already".into();
            mistakes.push(Mistake::of(&one.name, Wrong("name", what)));
            continue;
        }
        let one = match preset(&one.name) {
            Some(preset) => one.clone().over(preset.clone()),
            None => one.clone(),
        };
        match definitions.iter_mut().find(|known| known.name == one.name) {
            Some(known) => *known = one,
            None => definitions.push(one),
        }
    }
    (definitions, mistakes)
}

#[cfg(test)]
mod tests {
    use super::super::definition::DEFAULT_PRESETS;
    use super::*;
    use crate::task::{Reader, Source, State};

    fn all_presets() -> Vec<String> {
        presets().iter().map(|preset| preset.name.clone()).collect()
    }

    fn table() -> Routes {
        Routes::new(&all_presets(), &[]).expect("no mistakes")
    }

    /// How a request is read, in short.
    fn read(routes: &Routes, method: &Method, target: &str) -> String {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        match routes.read(method, path, query) {
            Matched::Poll { route, task, .. } => format!("{} {task}", route.label().as_str()),
            Matched::PollByBody(route) => format!("{} by its body", route.label.as_str()),
            Matched::Write { task, .. } => format!("write {task}"),
            Matched::Forward { .. } => "forward".into(),
        }
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "a table")]
    fn requests_are_read_by_the_table() {
        let (get, post) = (&Method::GET, &Method::POST);
        let own = |name: &str| Method::from_bytes(name.as_bytes()).expect("is a token");
        let (propfind, unknown) = (own("PROPFIND"), own("FROB"));
        for (method, target, expected) in [
            (get, "/v1/videos/task_1", "openai task_1"),
            (get, "/v1/videos/sora-2:task_01k", "openai sora-2:task_01k"),
            (get, "/v1/videos/a%2Fb", "openai a%2Fb"),
            (get, "/v1/videos/effects-1", "openai effects-1"),
            (get, "/v1/videos/Effects", "openai Effects"),
            (&Method::HEAD, "/v1/video/generations/t?key=1", "unified t"),
            (get, "/v1/video/generations/effects", "unified effects"),
            (get, "/", "forward"),
            (get, "/v1/videos", "forward"),
            (get, "/v1/videos/", "forward"),
            (get, "/v1/videos/a/", "forward"),
            (get, "/v1/videos/a/content", "forward"),
            (get, "/v1//videos/a", "forward"),
            (get, "//v1/videos/a", "forward"),
            (get, "/V1/videos/a", "forward"),
            (get, "/v1/videos/edits", "forward"),
            (get, "/v1/videos/..", "forward"),
            (get, "/v1/videos/%2e%2E", "forward"),
            (get, "/v1/videos/characters/c1", "forward"),
            (get, "/v1/videos/text2video", "forward"),
            (get, "/v1/videos/text2video/task_1", "forward"),
            (get, "/v1/video/generations", "forward"),
            (get, "/v1%2Fvideos/a", "forward"),
            (&Method::DELETE, "/v1/videos/a", "write a"),
            (post, "/v1/videos/a/remix", "write a"),
            (&Method::PATCH, "/v1/video/generations/a", "write a"),
            (&Method::OPTIONS, "/v1/videos/a", "forward"),
            (&Method::TRACE, "/v1/videos/a", "forward"),
            (&propfind, "/v1/videos/a", "forward"),
            (&unknown, "/v1/videos/a", "write a"),
            (post, "/v1/videos/edits", "forward"),
            (post, "/v1/videos/effects", "forward"),
            (post, "/v1/videos", "forward"),
            (get, "/v1/video/query?id=veo3.1%3A1", "octopus veo3.1%3A1"),
            (get, "/v1/video/query?x=1&id=a", "octopus a"),
            (get, "/v1/video/query?id=a&id=b", "forward"),
            (get, "/v1/video/query?%69d=a", "octopus a"),
            (get, "/v1/video/query?id=", "forward"),
            (get, "/v1/video/query", "forward"),
            (get, "/v1/video/query?id=a;id=b", "forward"),
            (get, "/v1/video/query?a=1;b=2&id=a", "forward"),
            (get, "/v1/video/query?id=a%3Bb", "octopus a%3Bb"),
            (post, "/v1/video/query?id=a", "forward"),
            (get, "/mj/task/17/fetch", "mj 17"),
            (get, "/fast/mj/task/17/fetch", "mj 17"),
            (get, "/mj/task/17/image-seed", "forward"),
            (post, "/mj/submit/imagine", "forward"),
            (post, "/mj/task/list-by-condition", "mj-batch by its body"),
            (get, "/kling/v1/videos/text2video/7", "kling 7"),
            (get, "/kling/v1/images/generations/7", "kling 7"),
            (post, "/kling/v1/videos/text2video", "forward"),
            (get, "/kling/v1/videos/text2video", "forward"),
            (get, "/suno/fetch/t", "suno t"),
            (post, "/suno/fetch", "suno-batch by its body"),
            (get, "/v1/tasks/t", "tasks t"),
            (get, "/v1/tasks/t/artifacts", "forward"),
            (
                get,
                "/doubao/api/v3/contents/generations/tasks/cgt-1",
                "ark cgt-1",
            ),
            (
                &Method::DELETE,
                "/api/v3/contents/generations/tasks/cgt-1",
                "write cgt-1",
            ),
            (
                post,
                "/jimeng/?Action=CVSync2AsyncGetResult&Version=2022-08-31",
                "jimeng by its body",
            ),
            (post, "/jm?Action=CVSync2AsyncSubmitTask", "forward"),
            (
                post,
                "/jm?Action=CVSync2AsyncGetResult&Action=CVSync2AsyncSubmitTask",
                "forward",
            ),
            (
                post,
                "/jm?Action=CVSync2AsyncGetResult&a=;Action=CVSync2AsyncSubmitTask",
                "forward",
            ),
            (post, "/jm", "forward"),
            (get, "/v1/responses/resp_1", "responses resp_1"),
            (get, "/v1/responses/resp_1?stream=true", "forward"),
            (get, "/v1/responses/resp_1?starting_after=3", "forward"),
            (get, "/v1/responses/resp_1?a=1;stream=true", "forward"),
            (&Method::DELETE, "/v1/midjourney/tasks/7", "write 7"),
            (post, "/v1/midjourney/tasks/7/cancel", "write 7"),
            (&Method::DELETE, "/v1/midjourney/7", "write 7"),
            (
                get,
                "/minimax/v1/query/video_generation?task_id=9",
                "minimax 9",
            ),
        ] {
            assert_eq!(
                read(&table(), method, target),
                expected,
                "{method} {target}"
            );
        }
    }

    #[test]
    fn two_resources_of_one_task_have_keys_of_their_own() {
        let routes = table();
        let task = |path, query| match routes.read(&Method::GET, path, query) {
            Matched::Poll { route, task, .. } => (route.id(), task),
            other => panic!("{path}: {other:?}"),
        };
        let kinds = ["text2video", "image2video"]
            .map(|kind| task(&*format!("/kling/v1/videos/{kind}/7").leak(), None));
        assert_ne!(kinds[0], kinds[1]);
        assert_eq!(kinds[0].1.as_str(), kinds[1].1.as_str());
        assert_ne!(task("/v1/tasks/7", None), task("/v1/videos/7", None));
        let query = |query| task("/v1/video/query", Some(query));
        assert_eq!(query("id=7"), query("a=b&id=7"));
    }

    #[test]
    fn the_id_is_no_part_of_the_rest_of_a_query() {
        for (query, rest) in [
            ("id=7", ""),
            ("a=1&id=7&b=2", "a=1&b=2"),
            ("id=7&key=", "key="),
        ] {
            match table().read(&Method::GET, "/v1/video/query", Some(query)) {
                Matched::Poll { rest_of_query, .. } => {
                    assert_eq!(rest_of_query.as_deref(), Some(rest));
                }
                other => panic!("{query}: {other:?}"),
            }
        }
    }

    fn mistakes(presets: &[&str], own: &str) -> Vec<String> {
        #[derive(serde::Deserialize)]
        struct File {
            #[serde(default)]
            route: Vec<Definition>,
        }
        let presets: Vec<_> = presets.iter().map(|name| (*name).to_owned()).collect();
        let File { route } = toml::from_str(own).expect("is TOML");
        let mistakes = Routes::new(&presets, &route).map(|_| ()).err();
        let mistakes = mistakes.unwrap_or_default().into_iter();
        mistakes.map(|mistake| mistake.what).collect()
    }

    #[test]
    fn mistakes_are_told_in_words() {
        let own = |keys: &str| format!("[[route]]\nname = 'x'\n{keys}");
        for (keys, told) in [
            ("", "path: it is missing; it takes one such as"),
            ("path = 'x/{id}'", "takes a path that begins with /"),
            ("path = '/x?id={id}'", "path: got \"/x?id={id}\""),
            ("path = '/x'", "path: got \"/x\", takes {id}"),
            ("path = '/x/:id'", "path: got \"/x/:id\", takes {id}"),
            (
                "path = '/x/{id}'\nid = 'query:id'",
                "id: got \"query:id\", but",
            ),
            (
                "path = '/x'\nid = 'cookie:id'",
                "id: got \"cookie:id\", takes",
            ),
            ("path = '/x'\nid = 'query:'", "id: got \"query:\", takes"),
            (
                "path = '/x'\nid = 'body:id'",
                "id: got \"id\", takes a JSON pointer",
            ),
            (
                "path = '/x'\nmethod = 'POST'\nid = 'query:id'",
                "method: POST takes id = \"body:/POINTER\"",
            ),
            ("path = '/x/{id}'\nmethod = 'POST'", "method: POST takes"),
            ("path = '/x'\nmethod = 'POST'", "method: POST takes"),
            ("path = '/x'\nid = 'body:/id'", "takes method = \"POST\""),
            ("path = '/x/{id}'\neach = '/list'", "each: it takes id"),
            (
                "path = '/x/{id}'\nstatus = 'status'",
                "status: got \"status\", takes a JSON pointer",
            ),
            ("path = '/x/{id}'\nvolatile = ''", "volatile: got the whole"),
            ("path = '/x/{id}'\nwhen = 'a'", "when: got \"a\", takes"),
            ("path = '/x/{id}'\nwhen = '=a'", "when: got \"=a\", takes"),
            ("path = '/x/{id}'\nunless = 'a=b'", "unless: got \"a=b\""),
            (
                "path = '/x/{id}'\nwhen = 'a=b'\nunless = 'a'",
                "unless: got \"a\", which every poll must have",
            ),
            (
                "path = '/x'\nid = 'query:a'\nunless = 'a'",
                "unless: got \"a\", which every poll must have",
            ),
            (
                "path = '/x/{id}'\nsucceeded = ' '",
                "succeeded: got an empty",
            ),
            (
                "path = '/x/{id}'\nsucceeded = 'all-done'\nfailed = 'All done'",
                "failed: got \"All done\", which is in succeeded too",
            ),
            (
                "path = '/x/{id}'\nmax_ttl = 'long'",
                "max_ttl: got \"long\", takes a duration",
            ),
            (
                "path = '/v1/videos/{id}'",
                "route \"openai\" too, which has /v1/videos/{id}, and is built in",
            ),
            ("path = '/v1/{kind}/{id}'", "matches requests of route"),
            (
                "path = '/suno/fetch/{id}'",
                "route \"suno\" too, which has /suno/fetch/{id}; to change a preset, give the route its name",
            ),
        ] {
            let mistakes = mistakes(&DEFAULT_PRESETS, &own(keys));
            assert!(
                mistakes.iter().any(|one| one.contains(told)),
                "{keys}: {mistakes:?}"
            );
        }
        let near = "[[route]]\nname = 'klng'";
        assert!(mistakes(&[], near)[0].contains("did you mean the preset \"kling\"?"));
        for name in ["", "Ä", "forward", "openai", "a b"] {
            let own = format!("[[route]]\nname = '{name}'\npath = '/x/{{id}}'");
            assert_eq!(mistakes(&[], &own).len(), 1, "{name}");
        }
        assert!(mistakes(&["nope"], "")[0].contains("there is no preset \"nope\""));
        let twice =
            "[[route]]\nname = 'x'\npath = '/x/{id}'\n[[route]]\nname = 'x'\npath = '/y/{id}'";
        assert_eq!(mistakes(&[], twice), ["name: another route has it already"]);
        let many: Vec<_> = (0..=MOST)
            .map(|number| format!("[[route]]\nname = 'r{number}'\npath = '/r{number}/{{id}}'"))
            .collect();
        let many = many.join("\n");
        assert_eq!(mistakes(&[], &many), ["there are 65 routes, and can be 64"]);
    }

    #[test]
    fn what_cannot_match_one_request_stands_side_by_side() {
        for own in [
            "[[route]]\nname = 'x'\npath = '/v1/videos/text2video/{id}'",
            "[[route]]\nname = 'x'\npath = '/v1/videos/effects'\nid = 'query:id'",
            "[[route]]\nname = 'x'\npath = '/jm'\nmethod = 'POST'\nid = 'body:/id'\nwhen = 'Action=Other'",
            "[[route]]\nname = 'mj'\nmax_ttl = '1h'",
        ] {
            let names = all_presets();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            assert_eq!(mistakes(&names, own), Vec::<String>::new(), "{own}");
        }
    }

    #[test]
    fn a_write_below_a_list_is_one_to_the_task_of_the_route_there() {
        let own = toml::from_str("name = 'x'\npath = '/v1/videos/text2video/{id}'");
        let routes = Routes::new(&[], &[own.expect("reads")]).expect("no mistakes");
        let delete = |path| read(&routes, &Method::DELETE, path);
        assert_eq!(delete("/v1/videos/text2video/7"), "write 7");
        assert_eq!(delete("/v1/videos/text2video"), "forward");
        assert_eq!(delete("/v1/videos/8"), "write 8");
    }

    #[test]
    fn a_route_keeps_its_number_until_it_is_changed() {
        let before = table();
        let number = |routes: &Routes, name: &str| {
            let row = routes.rows().iter().find(|row| row.name() == name);
            row.map(|row| row.route().id())
        };
        let own: Definition = toml::from_str("name = 'mj'\nmax_ttl = '1h'").expect("reads");
        let after = before
            .followed_by(&all_presets(), std::slice::from_ref(&own))
            .expect("no mistakes");
        assert_eq!(number(&before, "kling"), number(&after, "kling"));
        assert_ne!(number(&before, "mj"), number(&after, "mj"));
        let mut routes = after;
        let mut wrapped = false;
        for hours in 2..600 {
            let own = Definition {
                max_ttl: Some(format!("{hours}h")),
                ..own.clone()
            };
            routes = routes
                .followed_by(&all_presets(), &[own])
                .expect("no mistakes");
            let mut numbers: Vec<_> = routes.rows().iter().map(|row| row.route().id().0).collect();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), routes.rows().len(), "each has its own");
            wrapped |= routes.starts_anew();
        }
        assert!(wrapped);
    }

    /// The cases of `tests/routes`: what each preset reads from each body.
    #[test]
    fn presets_read_the_bodies_of_their_routes() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/routes");
        let mut read = 0;
        for file in std::fs::read_dir(folder).expect("a folder") {
            let text = std::fs::read_to_string(file.expect("a file").path()).expect("text");
            let file: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let name = file["preset"].as_str().unwrap_or_default();
            let routes = table();
            let row = routes.rows().iter().find(|row| row.name() == name);
            let built_in = Reader::default();
            let reader = match row.map(Row::route) {
                Some(StatusRoute::AsIs(route)) => &route.reader,
                _ if name.starts_with("built-in") => &built_in,
                _ => continue,
            };
            let requests = file["examples"].as_array().expect("examples");
            let request = requests.iter().find(|one| one["case"] == "request");
            let ids = request.map_or("task", |request| {
                let ids = request["body"]["ids"].as_array().into_iter().flatten();
                let ids: Vec<_> = ids.filter_map(|id| id.as_str()).collect();
                ids.join("\n").leak()
            });
            for example in requests {
                let expect = &example["expect"];
                if expect.is_null() {
                    continue;
                }
                let case = format!("{name}: {}", example["case"]);
                let body = example["body"].to_string();
                let told = reader.read(&Source {
                    asked_id: ids,
                    status: 200,
                    body: body.as_bytes(),
                    first_seen: 1,
                });
                let told = told.as_ref().ok();
                let state = told.map(|told| told.state.as_str());
                assert_eq!(state, expect["state"].as_str(), "{case}");
                let result = told.and_then(|told| told.result.as_deref());
                assert_eq!(result, expect["url"].as_str(), "{case}");
                if let Some(error) = expect["error"].as_str() {
                    let reason = told.and_then(|told| told.error.as_deref());
                    assert_eq!(reason, Some(error), "{case}");
                }
                if let (Some(progress), Some(told)) = (expect["progress"].as_u64(), told)
                    && told.state != State::Failed
                {
                    assert_eq!(told.progress.map(u64::from), Some(progress), "{case}");
                }
                read += 1;
            }
        }
        assert!(read > 70, "{read}");
    }
}
