//! When a service that ended is started again (HOLD-RESTART). Pure: the clock is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// First delay after the start at once; doubled each time.
const BACK_OFF_FIRST: Duration = Duration::from_millis(50);
/// The longest delay.
const BACK_OFF_LAST: Duration = Duration::from_secs(2);

/// What to do about a service that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Start it again after this time.
    Restart(Duration),
    /// It does not stay up: run the fallback (or nothing) for this time, then try again.
    GiveUp(Duration),
}

/// The restarts of one service within its window.
#[derive(Debug)]
pub struct Restarts {
    max: usize,
    window: Duration,
    at: VecDeque<Instant>,
}

impl Restarts {
    /// No restarts so far.
    pub fn new(max: u32, window: Duration) -> Restarts {
        Restarts {
            max: max as usize,
            window,
            at: VecDeque::new(),
        }
    }

    /// The service has ended.
    pub fn ended(&mut self, now: Instant) -> Next {
        self.forget_old(now);
        if self.at.len() >= self.max {
            self.at.clear();
            return Next::GiveUp(self.window);
        }
        self.at.push_back(now);
        Next::Restart(back_off(self.at.len() - 1))
    }

    fn forget_old(&mut self, now: Instant) {
        while self
            .at
            .front()
            .is_some_and(|at| now.saturating_duration_since(*at) >= self.window)
        {
            self.at.pop_front();
        }
    }
}

/// 0, 50 ms, 100 ms .. 2 s.
pub fn back_off(before: usize) -> Duration {
    match before {
        0 => Duration::ZERO,
        1..=6 => (BACK_OFF_FIRST * (1 << (before - 1))).min(BACK_OFF_LAST),
        _ => BACK_OFF_LAST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_once_then_slower_then_given_up() {
        let now = Instant::now();
        let mut restarts = Restarts::new(4, Duration::from_secs(10));
        let delays: Vec<_> = (0..4).map(|_| restarts.ended(now)).collect();
        assert_eq!(
            delays,
            [0, 50, 100, 200].map(|ms| Next::Restart(Duration::from_millis(ms)))
        );
        assert_eq!(restarts.ended(now), Next::GiveUp(Duration::from_secs(10)));
        assert_eq!(
            restarts.ended(now),
            Next::Restart(Duration::ZERO),
            "a new window"
        );
    }

    #[test]
    fn old_restarts_are_forgotten() {
        let now = Instant::now();
        let mut restarts = Restarts::new(1, Duration::from_secs(10));
        assert_eq!(restarts.ended(now), Next::Restart(Duration::ZERO));
        assert_eq!(
            restarts.ended(now + Duration::from_secs(10)),
            Next::Restart(Duration::ZERO)
        );
        assert_eq!(
            restarts.ended(now + Duration::from_secs(11)),
            Next::GiveUp(Duration::from_secs(10))
        );
    }

    #[test]
    fn the_longest_delay_is_two_seconds() {
        assert_eq!(back_off(6), Duration::from_millis(1_600));
        assert_eq!(back_off(7), BACK_OFF_LAST);
        assert_eq!(back_off(usize::MAX), BACK_OFF_LAST);
    }
}
