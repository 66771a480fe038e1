//! How many of the last checks failed: a service that fails every second check never fails often enough in a row.
//!
//! The rule: *a rate is judged over a window, not by streaks alone.* It counts and decides nothing else.

use std::collections::VecDeque;

use crate::settings::Serving;

/// The last checks, the newest last; `true` is a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Window(VecDeque<bool>);

impl Window {
    /// Adds a check and returns the failure rate if it is too high. Only a failed check can make it too high.
    pub(super) fn take_in(&mut self, passed: bool, terms: &Serving) -> Option<String> {
        let size = usize::try_from(terms.window).unwrap_or(usize::MAX);
        self.0.push_back(!passed);
        while self.0.len() > size {
            self.0.pop_front();
        }
        let failed = self.0.iter().filter(|failed| **failed).count();
        let percent = usize::try_from(terms.window_failure_percent).unwrap_or(usize::MAX);
        // Relative to the whole window, so that the first checks do not decide.
        let over = failed.saturating_mul(100) >= size.saturating_mul(percent);
        (!passed && over).then(|| format!("{failed} of the last {} checks failed", self.0.len()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lifecycle::Terms;

    fn serving(window: u32, percent: u32) -> Serving {
        Serving {
            window,
            window_failure_percent: percent,
            ..Terms::fallback().serving
        }
    }

    #[test]
    fn a_share_of_the_whole_window_is_too_often() {
        let terms = serving(10, 40);
        let mut window = Window::default();
        let mut rates = Vec::new();
        for number in 0..10 {
            rates.push(window.take_in(number % 2 == 1, &terms));
        }
        assert_eq!(rates[..6], [const { None }; 6]);
        assert_eq!(rates[6].as_deref(), Some("4 of the last 7 checks failed"));
        // A pass never makes it too high.
        assert_eq!(rates[7], None);
        let mut window = Window::default();
        for number in 0..1000 {
            assert_eq!(
                window.take_in(number % 3 != 0, &serving(20, 40)),
                None,
                "{number}"
            );
        }
    }

    proptest! {
        #[test]
        fn it_tips_exactly_when_the_last_checks_failed_too_often(
            checks in proptest::collection::vec(any::<bool>(), 1..120), size in 1_u32..30, percent in 1_u32..=100,
        ) {
            let mut window = Window::default();
            for (number, passed) in checks.iter().enumerate() {
                let from = (number + 1).saturating_sub(usize::try_from(size).unwrap());
                let failed = checks[from..=number].iter().filter(|passed| !**passed).count();
                let over = failed * 100 >= usize::try_from(size * percent).unwrap();
                prop_assert_eq!(window.take_in(*passed, &serving(size, percent)).is_some(), over && !passed);
            }
        }
    }
}
