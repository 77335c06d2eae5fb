//! Status routes: which requests ask for a task, and how its documents are read. One table of rows that a person can
//! read and extend; matching is by method and raw path, with nothing decoded.
//!
//! | file | holds |
//! |---|---|
//! | `template` | path templates |
//! | `definition`, `presets.toml` | a row as the configuration has it, and the presets |
//! | `task_id`, `label` | the id of a task; the name of a route in metrics and logs |
//! | `row` | a row, made from its definition: which requests ask on it |
//! | `table` | the rows in force, and what a request is by them |

mod definition;
mod label;
mod row;
mod table;
mod task_id;
mod template;

pub use definition::{DEFAULT_PRESETS, Definition, KEYS, PollMethod, presets};
pub use label::{LABELS, RouteLabel};
pub use row::{AsIsRoute, Matched, Mistake, RouteId, Row, StatusRoute};
pub use table::Routes;
pub use task_id::{TaskId, decoded, encoded, id_of, names};
pub use template::Template;
