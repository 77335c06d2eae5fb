//! Status routes: the two of new-api's video API, and those of other vendors' APIs.

use serde::Serialize;

/// A status route, which selects the documents of its answers and of the create requests that belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatusRoute {
    /// `GET /v1/video/generations/{id}`.
    Unified,
    /// `GET /v1/videos/{id}`.
    Openai,
    /// OctopusX's own: `GET /v1/video/query?id={id}`.
    Octopus,
    /// Midjourney: `GET /mj/task/{id}/fetch`, also below a mode such as `/mj-fast`.
    Mj,
    /// Kling: `GET /kling/v1/{videos|images}/{kind}/{id}`.
    Kling,
    /// Suno: `GET /suno/fetch/{id}`.
    Suno,
    /// new-api's `GET /v1/tasks/{id}`.
    Tasks,
    /// Volcengine Ark: `GET /api/v3/contents/generations/tasks/{id}`, also below `/doubao`, and below `/seedance/v3`.
    Ark,
}

impl StatusRoute {
    /// Every route.
    pub(super) const ALL: [Self; 8] = [
        Self::Unified,
        Self::Openai,
        Self::Octopus,
        Self::Mj,
        Self::Kling,
        Self::Suno,
        Self::Tasks,
        Self::Ark,
    ];

    /// Name in flags and JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Unified => "unified",
            Self::Openai => "openai",
            Self::Octopus => "octopus",
            Self::Mj => "mj",
            Self::Kling => "kling",
            Self::Suno => "suno",
            Self::Tasks => "tasks",
            Self::Ark => "ark",
        }
    }

    /// Matches a status poll by its path segments and query; returns the route and the raw id.
    pub(super) fn of_poll<'a>(segments: &[&'a str], query: &'a str) -> Option<(Self, &'a str)> {
        let (route, id) = match *segments {
            ["v1", "video", "generations", id] => (Self::Unified, id),
            ["v1", "videos", id] => (Self::Openai, id),
            ["v1", "video", "query"] => (Self::Octopus, parameter(query, "id")?),
            ["mj", "task", id, "fetch"] | [_, "mj", "task", id, "fetch"] => (Self::Mj, id),
            ["kling", "v1", "videos" | "images", _, id] => (Self::Kling, id),
            ["suno", "fetch", id] => (Self::Suno, id),
            ["v1", "tasks", id] => (Self::Tasks, id),
            [
                "doubao",
                "api",
                "v3",
                "contents",
                "generations",
                "tasks",
                id,
            ]
            | [
                "api" | "seedance",
                "v3",
                "contents",
                "generations",
                "tasks",
                id,
            ] => (Self::Ark, id),
            _ => return None,
        };
        (!id.is_empty()).then_some((route, id))
    }

    /// Matches a create request by its path segments.
    pub(super) fn of_create(segments: &[&str]) -> Option<Self> {
        let route = match *segments {
            ["v1", "video", "generations"] => Self::Unified,
            ["v1", "videos"] => Self::Openai,
            ["v1", "video", "create"] => Self::Octopus,
            ["mj", "submit", _] | [_, "mj", "submit", _] => Self::Mj,
            ["kling", "v1", "videos" | "images", _] => Self::Kling,
            ["suno", "submit", _] => Self::Suno,
            ["v1", "tasks", _] => Self::Tasks,
            ["doubao", "api", "v3", "contents", "generations", "tasks"]
            | ["api" | "seedance", "v3", "contents", "generations", "tasks"] => Self::Ark,
            _ => return None,
        };
        Some(route)
    }

    /// Model of a create request that contains none.
    pub(super) const fn default_model(self) -> &'static str {
        match self {
            Self::Mj => "midjourney",
            Self::Kling => "kling-v1-6",
            Self::Suno => "chirp-v4",
            _ => "",
        }
    }
}

/// The raw value of a query parameter.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(path: &str) -> Vec<&str> {
        path.split('/').skip(1).collect()
    }

    #[test]
    fn every_status_path_matches_its_route_and_yields_the_raw_id() {
        for (path, query, route) in [
            ("/v1/video/generations/a%2Fb", "", StatusRoute::Unified),
            ("/v1/videos/a%2Fb", "", StatusRoute::Openai),
            ("/v1/video/query", "x=1&id=a%2Fb", StatusRoute::Octopus),
            ("/mj/task/a%2Fb/fetch", "", StatusRoute::Mj),
            ("/mj-fast/mj/task/a%2Fb/fetch", "", StatusRoute::Mj),
            ("/kling/v1/videos/text2video/a%2Fb", "", StatusRoute::Kling),
            ("/kling/v1/images/generations/a%2Fb", "", StatusRoute::Kling),
            ("/suno/fetch/a%2Fb", "", StatusRoute::Suno),
            ("/v1/tasks/a%2Fb", "", StatusRoute::Tasks),
            (
                "/doubao/api/v3/contents/generations/tasks/a%2Fb",
                "",
                StatusRoute::Ark,
            ),
            (
                "/api/v3/contents/generations/tasks/a%2Fb",
                "",
                StatusRoute::Ark,
            ),
            (
                "/seedance/v3/contents/generations/tasks/a%2Fb",
                "",
                StatusRoute::Ark,
            ),
        ] {
            let found = StatusRoute::of_poll(&segments(path), query);
            assert_eq!(found, Some((route, "a%2Fb")), "{path}");
        }
    }

    #[test]
    fn a_path_without_an_id_is_not_a_status_path() {
        for (path, query) in [
            ("/v1/video/query", ""),
            ("/v1/video/query", "id="),
            ("/v1/video/query", "task_id=a"),
            ("/mj/task//fetch", ""),
            ("/mj/task/a/image-seed", ""),
            ("/kling/v1/videos/text2video", ""),
            ("/kling/v1/videos/text2video/", ""),
            ("/suno/fetch", ""),
            ("/v1/tasks/a/artifacts", ""),
            ("/api/v3/contents/generations/tasks", ""),
        ] {
            let found = StatusRoute::of_poll(&segments(path), query);
            assert_eq!(found, None, "{path}?{query}");
        }
    }

    #[test]
    fn every_route_has_a_create_path_and_one_name_in_flags_and_json() {
        for (path, route) in [
            ("/v1/video/generations", StatusRoute::Unified),
            ("/v1/videos", StatusRoute::Openai),
            ("/v1/video/create", StatusRoute::Octopus),
            ("/mj/submit/imagine", StatusRoute::Mj),
            ("/mj-relax/mj/submit/blend", StatusRoute::Mj),
            ("/kling/v1/videos/image2video", StatusRoute::Kling),
            ("/suno/submit/MUSIC", StatusRoute::Suno),
            ("/v1/tasks/doubao", StatusRoute::Tasks),
            ("/api/v3/contents/generations/tasks", StatusRoute::Ark),
        ] {
            assert_eq!(
                StatusRoute::of_create(&segments(path)),
                Some(route),
                "{path}"
            );
        }
        for route in StatusRoute::ALL {
            let json = serde_json::to_value(route).expect("a string");
            assert_eq!(json, route.name());
        }
    }
}
