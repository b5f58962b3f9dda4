// SPDX-License-Identifier: GPL-2.0

//! Faults of a wire: loss, delay, copies, flipped bits, decided by a seed.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use super::Stats;

/// The faults of one direction of a wire. Rates are from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Faults {
    /// The share of frames that are lost.
    pub loss: f64,
    /// The share that arrive twice.
    pub duplicate: f64,
    /// The share that are overtaken by later ones.
    pub reorder: f64,
    /// The share that have a bit flipped.
    pub corrupt: f64,
    /// The time that each one takes.
    pub delay: Duration,
}

/// The longest time that a frame is held back for others to overtake it.
const HELD_BACK: Duration = Duration::from_millis(20);

/// The faults of one direction and the dice that decide them. The same seed
/// and the same number of frames give the same fates.
pub struct FaultModel {
    /// The faults, to be changed at will.
    pub faults: Faults,
    dice: Rng,
}

/// The faults that hit one frame.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Fate {
    lost: bool,
    duplicated: bool,
    delay: Duration,
    flipped_bit: Option<usize>,
}

impl FaultModel {
    /// Returns a model without faults. Models with different `stream` numbers are independent.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self {
            faults: Faults::default(),
            dice: Rng::with_seed(seed.wrapping_mul(31).wrapping_add(stream)),
        }
    }

    /// Decides the fate of the next frame. It takes the same number of random numbers for each
    /// frame, so a change of one rate does not change the other faults.
    pub fn fate(&mut self, len: usize) -> Fate {
        let Faults {
            loss,
            duplicate,
            reorder,
            corrupt,
            delay,
        } = self.faults;
        let mut hits = |rate: f64| self.dice.f64() < rate;
        let (lost, duplicated, late, flipped) =
            (hits(loss), hits(duplicate), hits(reorder), hits(corrupt));
        let (hold, bit) = (self.dice.f64(), self.dice.u64(..));
        let late = if late {
            HELD_BACK.mul_f64(hold)
        } else {
            Duration::ZERO
        };
        let bits = (len as u64 * 8).max(1);
        Fate {
            lost,
            duplicated,
            delay: delay + late,
            // The remainder is below `bits`, a frame's size.
            flipped_bit: flipped.then_some((bit % bits) as usize),
        }
    }
}

impl Fate {
    /// Applies the faults to a frame: returns the copies that arrive, with their delays.
    pub fn apply(self, mut frame: Vec<u8>) -> Vec<(Duration, Vec<u8>)> {
        if self.lost {
            return Vec::new();
        }
        if let Some(byte) = self.flipped_bit.and_then(|bit| frame.get_mut(bit / 8)) {
            *byte ^= 1 << (self.flipped_bit.unwrap_or(0) % 8);
        }
        let mut copies = vec![(self.delay, frame)];
        if self.duplicated {
            copies.push(copies[0].clone());
        }
        copies
    }

    /// Adds this fate to the statistics.
    pub fn count(self, stats: &mut Stats) {
        if self.lost {
            stats.lost += 1;
            return;
        }
        stats.duplicated += u64::from(self.duplicated);
        stats.delayed += u64::from(!self.delay.is_zero());
        stats.corrupted += u64::from(self.flipped_bit.is_some());
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut words = Vec::new();
        if self.lost {
            words.push("lost".to_string());
        } else {
            if self.duplicated {
                words.push("doubled".into());
            }
            if !self.delay.is_zero() {
                words.push(format!("delayed by {:?}", self.delay));
            }
            if let Some(bit) = self.flipped_bit {
                words.push(format!("bit {} of byte {} flipped", bit % 8, bit / 8));
            }
        }
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(seed: u64, stream: u64, faults: Faults) -> Vec<Fate> {
        let mut model = FaultModel::new(seed, stream);
        model.faults = faults;
        (0..10_000).map(|_| model.fate(100)).collect()
    }

    const SOME: Faults = Faults {
        loss: 0.1,
        duplicate: 0.2,
        reorder: 0.3,
        corrupt: 0.4,
        delay: Duration::ZERO,
    };

    #[test]
    fn a_seed_replays() {
        assert_eq!(fates(7, 0, SOME), fates(7, 0, SOME));
        assert_ne!(fates(7, 0, SOME), fates(8, 0, SOME));
        assert_ne!(fates(7, 0, SOME), fates(7, 1, SOME));
    }

    #[test]
    fn the_rates_are_as_ordered() {
        let fates = fates(1, 0, SOME);
        let share = |hit: fn(&Fate) -> bool| {
            fates.iter().filter(|fate| hit(fate)).count() as f64 / fates.len() as f64
        };
        assert!((share(|f| f.lost) - 0.1).abs() < 0.02);
        assert!((share(|f| f.duplicated) - 0.2).abs() < 0.02);
        assert!((share(|f| !f.delay.is_zero()) - 0.3).abs() < 0.02);
        assert!((share(|f| f.flipped_bit.is_some()) - 0.4).abs() < 0.02);
    }

    #[test]
    fn one_rate_does_not_change_the_others() {
        let more = Faults {
            duplicate: 0.9,
            ..SOME
        };
        let lost = |faults| {
            fates(3, 0, faults)
                .iter()
                .map(|f| f.lost)
                .collect::<Vec<_>>()
        };
        assert_eq!(lost(SOME), lost(more));
    }

    #[test]
    fn exactly_one_bit_is_flipped() {
        let fate = Fate {
            flipped_bit: Some(13),
            ..Fate::default()
        };
        assert_eq!(
            fate.apply(vec![0; 4]),
            [(Duration::ZERO, vec![0, 0x20, 0, 0])]
        );
    }
}
