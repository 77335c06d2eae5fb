//! Which connection has been idle for the longest time: on a listener whose few permits idle connections must not keep
//! from others, a new connection takes its place.

use std::sync::{Arc, Weak};

use tokio::task::AbortHandle;

use super::activity::Activity;

/// The open connections of a listener, as far as they can be closed while idle.
#[derive(Debug, Default)]
pub(super) struct Closable(Vec<(AbortHandle, Weak<Activity>)>);

impl Closable {
    pub(super) fn add(&mut self, task: AbortHandle, activity: &Arc<Activity>) {
        self.0.retain(|(task, _)| !task.is_finished());
        self.0.push((task, Arc::downgrade(activity)));
    }

    /// Closes the connection that has been idle for the longest time; `false` where a request is in progress on each. A
    /// connection whose request is not whole is idle, too.
    pub(super) fn close_idlest(&mut self) -> bool {
        let idle = self
            .0
            .iter()
            .enumerate()
            .filter_map(|(index, (_, activity))| {
                let since = activity.upgrade()?.requests.idle_since()?;
                Some((since, index))
            });
        let Some((_, index)) = idle.min() else {
            return false;
        };
        let (task, _) = self.0.swap_remove(index);
        task.abort();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_one_that_has_been_idle_longest_is_closed_and_no_busy_one() {
        let mut closable = Closable::default();
        let mut tasks = Vec::new();
        for _ in 0..3 {
            let (activity, task) = (Activity::new(), tokio::spawn(std::future::pending::<()>()));
            closable.add(task.abort_handle(), &activity);
            tasks.push((activity, task));
            advance(Duration::from_secs(1)).await;
        }
        let (busy, _) = tasks[0].0.begin_request();
        drop(tasks[1].0.begin_request());
        for closed in [2, 1] {
            assert!(closable.close_idlest());
            let (_, task) = &mut tasks[closed];
            assert!(task.await.is_err_and(|error| error.is_cancelled()));
        }
        assert!(!closable.close_idlest(), "a request is in progress");
        drop(busy);
        assert!(closable.close_idlest());
    }
}
