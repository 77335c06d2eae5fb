//! Path templates: literal segments, `{id}` for the task, and other `{name}`s that stand for one segment each.

use std::fmt;

/// A path template. Paths are compared byte for byte: nothing is decoded, merged or normalised, so that two paths that
/// differ for upstream differ here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: Box<str>,
    /// All that comes before the first placeholder.
    prefix: Box<str>,
    /// The segments from there on.
    segments: Box<[Segment]>,
    /// Whether the id is all that comes after the prefix, as in most.
    ends_with_id: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    Id,
    Any,
}

/// How a path fits a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit<'p> {
    /// The raw segment that is the task's id, if the template has one.
    pub id: Option<&'p str>,
    /// Whether the whole path fits. Otherwise it fits as far as the id.
    pub is_whole: bool,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// A text that is no path, or has a placeholder where there can be none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix('/') else {
            return Err(format!("got {text:?}, takes a path that begins with /"));
        };
        if let Some(wrong) = text.chars().find(|c| !is_of_path(*c)) {
            let hint = match wrong {
                '?' => "; an id in the query is told by id = \"query:NAME\"",
                _ => "",
            };
            return Err(format!(
                "got {text:?}, but no path can hold {wrong:?}{hint}"
            ));
        }
        let mut ids = 0;
        let mut segments = Vec::new();
        for segment in path.split('/') {
            let name = segment.strip_prefix('{').map(|name| name.strip_suffix('}'));
            segments.push(match name {
                Some(Some("id")) => {
                    ids += 1;
                    Segment::Id
                }
                Some(Some(name)) if !name.is_empty() && !name.contains(['{', '}']) => Segment::Any,
                None if !segment.contains(['{', '}']) => Segment::Literal(segment.into()),
                _ => {
                    return Err(format!(
                        "got {text:?}, but a placeholder is a whole segment, as in /tasks/{{id}}"
                    ));
                }
            });
        }
        if ids > 1 {
            return Err(format!(
                "got {text:?}, takes {{id}} once; any other {{name}} stands for one segment"
            ));
        }
        let is_literal = |segment: &Segment| matches!(segment, Segment::Literal(_));
        let literals = segments.iter().take_while(|one| is_literal(one)).count();
        let mut prefix = String::new();
        for segment in &segments[..literals] {
            if let Segment::Literal(literal) = segment {
                prefix.push('/');
                prefix.push_str(literal);
            }
        }
        let segments: Box<[_]> = segments.drain(literals..).collect();
        if !segments.is_empty() {
            prefix.push('/');
        }
        Ok(Self {
            text: text.into(),
            prefix: prefix.into(),
            ends_with_id: *segments == [Segment::Id],
            segments,
        })
    }

    /// The template as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `{id}` is in it.
    #[must_use]
    pub fn has_id(&self) -> bool {
        self.segments.contains(&Segment::Id)
    }

    /// Whether the id alone tells the path.
    #[must_use]
    pub fn is_told_by_id(&self) -> bool {
        !self.segments.contains(&Segment::Any)
    }

    /// How a raw path fits.
    #[must_use]
    pub fn fit<'p>(&self, path: &'p str) -> Option<Fit<'p>> {
        let rest = path.strip_prefix(&*self.prefix)?;
        if self.ends_with_id {
            let end = memchr::memchr(b'/', rest.as_bytes());
            let id = &rest[..end.unwrap_or(rest.len())];
            return is_id(id).then_some(Fit {
                id: Some(id),
                is_whole: end.is_none(),
            });
        }
        if self.segments.is_empty() {
            let fit = Fit {
                id: None,
                is_whole: true,
            };
            return rest.is_empty().then_some(fit);
        }
        let mut segments = rest.split('/');
        let mut id = None;
        for wanted in &self.segments {
            let segment = segments.next();
            let fits = match wanted {
                Segment::Literal(literal) => segment == Some(literal),
                Segment::Id | Segment::Any => segment.is_some_and(is_id),
            };
            if !fits {
                let id = id?;
                return Some(Fit {
                    id: Some(id),
                    is_whole: false,
                });
            }
            if *wanted == Segment::Id {
                id = segment;
            }
        }
        let is_whole = segments.next().is_none();
        (is_whole || id.is_some()).then_some(Fit { id, is_whole })
    }

    /// The path for an id, where the id alone tells it.
    #[must_use]
    pub fn path(&self, id: &str) -> String {
        let mut path = String::from(&*self.prefix);
        for (index, segment) in self.segments.iter().enumerate() {
            if index > 0 {
                path.push('/');
            }
            path.push_str(match segment {
                Segment::Literal(literal) => literal,
                Segment::Id | Segment::Any => id,
            });
        }
        path
    }

    /// Whether there is a path that fits both. `is_no_id` tells segments that are no ids for either.
    #[must_use]
    pub fn overlaps(&self, other: &Self, is_no_id: impl Fn(&str) -> bool) -> bool {
        let (one, other) = (self.all(), other.all());
        let fits = |(one, other): (&Segment, &Segment)| match (one, other) {
            (Segment::Literal(one), Segment::Literal(other)) => one == other,
            (Segment::Literal(literal), Segment::Id) | (Segment::Id, Segment::Literal(literal)) => {
                is_id(literal) && !is_no_id(literal)
            }
            (Segment::Literal(literal), Segment::Any)
            | (Segment::Any, Segment::Literal(literal)) => is_id(literal),
            _ => true,
        };
        one.len() == other.len() && one.iter().zip(&other).all(fits)
    }

    /// Every segment, those of the prefix too.
    fn all(&self) -> Vec<Segment> {
        let prefix = self.prefix.strip_prefix('/').unwrap_or_default();
        let prefix = if self.segments.is_empty() {
            Some(prefix)
        } else {
            prefix.strip_suffix('/')
        };
        let literals = prefix.into_iter().flat_map(|prefix| prefix.split('/'));
        literals
            .map(|literal| Segment::Literal(literal.into()))
            .chain(self.segments.iter().cloned())
            .collect()
    }
}

/// Whether a character can stand in a path as it is sent, or in a placeholder (RFC 3986 §3.3).
fn is_of_path(c: char) -> bool {
    c.is_ascii_graphic() && !matches!(c, '?' | '#' | '"' | '<' | '>' | '\\' | '^' | '`' | '|')
}

/// Whether a segment may be an id. An empty one is none, nor is a dot segment (RFC 3986 §5.2.4), encoded or not: its meaning
/// depends on which hop resolves it.
pub(super) fn is_id(segment: &str) -> bool {
    let mut rest = segment.as_bytes();
    let mut dots = 0;
    while let [b'.', after @ ..] | [b'%', b'2', b'e' | b'E', after @ ..] = rest {
        (rest, dots) = (after, dots + 1);
    }
    !(rest.is_empty() && dots <= 2)
}

impl fmt::Display for Template {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Template {
        Template::parse(text).expect(text)
    }

    fn fit<'p>(text: &str, path: &'p str) -> Option<(Option<&'p str>, bool)> {
        template(text).fit(path).map(|fit| (fit.id, fit.is_whole))
    }

    #[test]
    fn a_path_fits_segment_by_segment() {
        for (text, path, expected) in [
            ("/v1/videos/{id}", "/v1/videos/t", Some((Some("t"), true))),
            (
                "/v1/videos/{id}",
                "/v1/videos/a%2Fb",
                Some((Some("a%2Fb"), true)),
            ),
            (
                "/v1/videos/{id}",
                "/v1/videos/t/content",
                Some((Some("t"), false)),
            ),
            ("/v1/videos/{id}", "/v1/videos/t/", Some((Some("t"), false))),
            ("/v1/videos/{id}", "/v1/videos/", None),
            ("/v1/videos/{id}", "/v1/videos", None),
            ("/v1/videos/{id}", "/v1//videos/t", None),
            ("/v1/videos/{id}", "/V1/videos/t", None),
            ("/v1/videos/{id}", "/v1/videos/..", None),
            ("/v1/videos/{id}", "/v1/videos/%2e", None),
            (
                "/{mode}/mj/task/{id}/fetch",
                "/fast/mj/task/7/fetch",
                Some((Some("7"), true)),
            ),
            (
                "/{mode}/mj/task/{id}/fetch",
                "/fast/mj/task/7/image-seed",
                Some((Some("7"), false)),
            ),
            ("/{mode}/mj/task/{id}/fetch", "//mj/task/7/fetch", None),
            ("/{mode}/mj/task/{id}/fetch", "/fast/mj/task", None),
            ("/jimeng/", "/jimeng/", Some((None, true))),
            ("/jimeng/", "/jimeng", None),
            ("/jm", "/jm", Some((None, true))),
            ("/jm", "/jm/", None),
            ("/jm", "/jmx", None),
            ("/{kind}/list", "/a/list", Some((None, true))),
            ("/{kind}/list", "/a/list/b", None),
        ] {
            assert_eq!(fit(text, path), expected, "{text} {path}");
        }
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for text in [
            "",
            "v1/{id}",
            "/v1/{id}/{id}",
            "/v1/x{id}",
            "/v1/{}",
            "/v1/{id",
            "/v1/id}",
            "/v1/a b",
            "/v1/a?b=c",
            "/v1/ä",
        ] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn templates_overlap_where_one_path_fits_both() {
        for (one, other, overlap) in [
            ("/v1/tasks/{id}", "/v1/tasks/{task}", true),
            ("/v1/tasks/{id}", "/v1/{kind}/{id}", true),
            ("/v1/tasks/{id}", "/v1/tasks/{id}/fetch", false),
            ("/v1/tasks/{id}", "/v2/tasks/{id}", false),
            ("/v1/tasks/{id}", "/v1/tasks/list", true),
            ("/v1/tasks/{id}", "/v1/tasks/none", false),
            ("/v1/tasks/{id}", "/v1/tasks/", false),
            ("/a", "/a", true),
            ("/a", "/a/", false),
            ("/{x}", "/a", true),
        ] {
            let (first, second) = (template(one), template(other));
            let is_no_id = |segment: &str| segment == "none";
            assert_eq!(first.overlaps(&second, is_no_id), overlap, "{one} {other}");
            assert_eq!(second.overlaps(&first, is_no_id), overlap, "{other} {one}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_path_made_for_an_id_fits_with_that_id(id in "[!-~&&[^/{}]]{1,20}") {
            for text in ["/v1/tasks/{id}", "/mj/task/{id}/fetch", "/{id}"] {
                let template = template(text);
                let path = template.path(&id);
                let fit = template.fit(&path);
                assert_eq!(fit.map(|fit| (fit.id, fit.is_whole)), is_id(&id).then_some((Some(&*id), true)));
            }
        }
    }
}
