//! The fault rules in force.

use std::sync::{Arc, Mutex};

use super::dice::Dice;
use super::rule::{Rule, Scope, When};
use super::status_route::StatusRoute;
use crate::sync::lock;

/// Maximum number of rules.
const MAX_RULES: usize = 1_000;

/// The fault rules in force; a cheap handle.
#[derive(Debug, Clone)]
pub struct Faults {
    rules: Arc<Mutex<Vec<Rule>>>,
    dice: Arc<Dice>,
}

impl Faults {
    pub(super) fn new(rules: &[Rule], dice: Arc<Dice>) -> Self {
        Self {
            rules: Arc::new(Mutex::new(rules.to_vec())),
            dice,
        }
    }

    /// Replaces all rules.
    pub fn set(&self, rules: impl IntoIterator<Item = impl Into<Rule>>) {
        *lock(&self.rules) = rules.into_iter().map(Into::into).take(MAX_RULES).collect();
    }

    /// Adds a rule after the others; the first that strikes wins. Rules beyond 1,000 are ignored.
    pub fn add(&self, rule: impl Into<Rule>) {
        let mut rules = lock(&self.rules);
        if rules.len() < MAX_RULES {
            rules.push(rule.into());
        }
    }

    /// Removes all rules.
    pub fn clear(&self) {
        lock(&self.rules).clear();
    }

    /// The rules in force, with their remaining counts.
    #[must_use]
    pub fn rules(&self) -> Vec<Rule> {
        lock(&self.rules).clone()
    }

    /// Probability that a rule strikes a status poll, whatever its route. Rules for the next N requests do not count.
    pub(crate) fn poll_rate(&self) -> f64 {
        let rules = lock(&self.rules);
        let spared: f64 = rules
            .iter()
            .filter(|rule| matches!(rule.scope, Scope::Status | Scope::All))
            .map(|rule| match rule.when {
                When::Always => 0.0,
                When::Rate(rate) => 1.0 - rate,
                When::Next(_) => 1.0,
            })
            .product();
        1.0 - spared
    }

    /// The rule that strikes a request, if any; counts it.
    pub(super) fn strike(&self, status: Option<StatusRoute>) -> Option<Rule> {
        let mut rules = lock(&self.rules);
        let struck = rules.iter_mut().find_map(|rule| {
            let strikes = rule.scope.covers(status)
                && match &mut rule.when {
                    When::Always => true,
                    When::Rate(rate) => self.dice.unit() < *rate,
                    When::Next(n) => {
                        let left = *n > 0;
                        *n = n.saturating_sub(1);
                        left
                    }
                };
            strikes.then_some(*rule)
        });
        rules.retain(|rule| rule.when != When::Next(0));
        struck
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::Fault;
    use super::*;

    fn faults(rules: &[&str]) -> Faults {
        let rules: Vec<Rule> = rules.iter().map(|r| r.parse().expect("a rule")).collect();
        Faults::new(&rules, Arc::new(Dice::new(Some(1))))
    }

    #[test]
    fn a_rule_for_the_next_n_requests_strikes_n_times_and_is_removed() {
        let faults = faults(&["503@openai:next=2", "html@unified"]);
        let strike = |route| faults.strike(route).map(|rule| rule.fault.name());
        assert_eq!(strike(None), None);
        assert_eq!(strike(Some(StatusRoute::Openai)), Some("503"));
        assert_eq!(strike(Some(StatusRoute::Unified)), Some("html"));
        assert_eq!(strike(Some(StatusRoute::Openai)), Some("503"));
        assert_eq!(strike(Some(StatusRoute::Openai)), None);
        let unified = Scope::Route(StatusRoute::Unified);
        assert_eq!(faults.rules(), [Rule::new(Fault::Html).on(unified)]);
    }

    #[test]
    fn a_rate_is_how_often_a_rule_strikes() {
        let faults = faults(&["500:0.1"]);
        let struck = (0..10_000)
            .filter(|_| faults.strike(Some(StatusRoute::Openai)).is_some())
            .count();
        assert!((800..1200).contains(&struck), "{struck}");
    }

    #[test]
    fn the_rate_of_several_rules_is_how_often_any_of_them_strikes() {
        let faults = faults(&["500:0.1", "html:0.2", "503@openai:0.5", "502:next=0"]);
        assert!((faults.poll_rate() - 0.28).abs() < 1e-9);
        let struck = (0..10_000)
            .filter(|_| faults.strike(Some(StatusRoute::Unified)).is_some())
            .count();
        assert!((2600..3000).contains(&struck), "{struck}");
    }
}
