// SPDX-License-Identifier: GPL-2.0

//! The state of a stream, from one receiver to the next.

use crate::record::{SeqRange, Session};

/// The state of a stream, to go on with in another receiver: see
/// [`Sender::resume`](crate::Sender::resume) and [`Receiver::resume`](crate::Receiver::resume).
///
/// With the feature `serde` it can be saved: `docs/ncrx.md` has the keys. Numbers that are not in
/// order, or that no record can have, are ignored by a receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "serde", serde(from = "saved::Saved", into = "saved::Saved"))]
pub struct Resume {
    /// These are [`Sender`](crate::Sender)'s.
    pub(crate) session: Option<Session>,
    pub(crate) settled: Option<u64>,
    pub(crate) usec: u64,
    pub(crate) beyond: Vec<SeqRange>,
    pub(crate) passed: Vec<(SeqRange, Option<u64>)>,
    pub(crate) asked: Option<SeqRange>,
    pub(crate) clockless: bool,
    pub(crate) last_usec: u64,
    /// 0 if it is not known.
    pub(crate) newest_usec: u64,
}

impl Resume {
    /// Returns the session of the stream.
    pub fn session(&self) -> Option<Session> {
        self.session
    }

    /// Returns how far the stream had got: the last number that is written, and the last up to
    /// which all are settled. The latter may go back when records turn out to come after all.
    pub fn reach(&self) -> (Option<u64>, Option<u64>) {
        let beyond = self.beyond.last().map(|numbers| numbers.last);
        (beyond.max(self.settled), self.settled)
    }

    /// Returns whether its numbers are in order: those of a receiver are.
    pub fn is_sound(&self) -> bool {
        let ascend = |ranges: &[SeqRange]| {
            let apart = ranges.windows(2).all(|two| two[0].last < two[1].first);
            apart && ranges.iter().all(|numbers| numbers.first <= numbers.last)
        };
        let passed: Vec<_> = self.passed.iter().map(|(numbers, _)| *numbers).collect();
        let is_settled = |numbers: &SeqRange| Some(numbers.last) <= self.settled;
        let is_beyond = |numbers: &SeqRange| Some(numbers.first) > self.settled;
        ascend(&self.beyond)
            && ascend(&passed)
            && passed.last().is_none_or(is_settled)
            && self.beyond.first().is_none_or(is_beyond)
    }

    /// Forgets the numbers that the sender was asked for: ten seconds after it was heard the
    /// network brings no more copies of them.
    pub fn forget_asked(&mut self) {
        self.asked = None;
    }
}

/// The form in which it is saved: numbers in pairs, and nothing that says nothing.
#[cfg(feature = "serde")]
mod saved {
    use serde::{Deserialize, Serialize};

    use super::{Resume, SeqRange, Session};

    #[derive(Deserialize, Serialize)]
    pub(super) struct Saved {
        session: Option<u64>,
        settled: Option<u64>,
        usec: u64,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        beyond: Vec<(u64, u64)>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        passed: Vec<(u64, u64, Option<u64>)>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asked: Option<(u64, u64)>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        clockless: bool,
        /// The last two were not told by earlier versions.
        #[serde(default)]
        last_usec: u64,
        #[serde(default)]
        newest_usec: u64,
    }

    fn range((first, last): (u64, u64)) -> SeqRange {
        SeqRange { first, last }
    }

    fn pair(numbers: SeqRange) -> (u64, u64) {
        (numbers.first, numbers.last)
    }

    impl From<Saved> for Resume {
        fn from(saved: Saved) -> Self {
            let passed = saved.passed.into_iter();
            Self {
                session: saved.session.map(Session),
                settled: saved.settled,
                usec: saved.usec,
                beyond: saved.beyond.into_iter().map(range).collect(),
                passed: passed
                    .map(|(first, last, usec)| (range((first, last)), usec))
                    .collect(),
                asked: saved.asked.map(range),
                clockless: saved.clockless,
                last_usec: saved.last_usec,
                newest_usec: saved.newest_usec,
            }
        }
    }

    impl From<Resume> for Saved {
        fn from(resume: Resume) -> Self {
            let passed = resume.passed.into_iter();
            Self {
                session: resume.session.map(|session| session.0),
                settled: resume.settled,
                usec: resume.usec,
                beyond: resume.beyond.into_iter().map(pair).collect(),
                passed: passed.map(|(n, usec)| (n.first, n.last, usec)).collect(),
                asked: resume.asked.map(pair),
                clockless: resume.clockless,
                last_usec: resume.last_usec,
                newest_usec: resume.newest_usec,
            }
        }
    }
}
