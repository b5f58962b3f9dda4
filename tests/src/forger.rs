// SPDX-License-Identifier: GPL-2.0

//! A forger of responses: noise, and good ones with bits and bytes changed.

use fastrand::Rng;

/// The longest payload of a packet of 1500 bytes.
pub const MAX: usize = 1472;

/// The numbers at and beyond the limits of the parser.
const EXTREMES: [&str; 8] = [
    "0",
    "1",
    "9223372036854775808",
    "18446744073709551614",
    "18446744073709551615",
    "18446744073709551616",
    "00000000000000000000000000007",
    "-1",
];

/// A source of datagrams that only look like a logger's.
pub struct Forger {
    rng: Rng,
    /// About the number of records that exist.
    pub end: u64,
    /// The session to name, for a forger that has seen it.
    pub session: Option<String>,
    lengths: usize,
}

impl Forger {
    /// Returns a forger whose datagrams follow from `seed`, and from the fields.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed ^ 0x666f_7267),
            end: 1000,
            session: None,
            lengths: 0,
        }
    }

    /// Returns the next datagram. Of sixteen, two are noise, one of each length in turn; one is a
    /// good response; the others are good ones that were changed.
    pub fn datagram(&mut self) -> Vec<u8> {
        let mut text = match self.rng.usize(..16) {
            0 => {
                let len = self.next_length();
                (0..len).map(|_| self.rng.u8(..)).collect()
            }
            1 => {
                let len = self.next_length();
                self.letters(len)
            }
            2 => return self.response(),
            _ => {
                let mut text = self.response();
                for _ in 0..self.rng.usize(1..5) {
                    self.change(&mut text);
                }
                text
            }
        };
        text.truncate(MAX);
        text
    }

    /// Returns the next length: each comes once before one comes again.
    fn next_length(&mut self) -> usize {
        self.lengths += 1;
        self.lengths % (MAX + 1)
    }

    /// Returns noise of the letters that responses are made of.
    fn letters(&mut self, len: usize) -> Vec<u8> {
        const LETTERS: &[u8] = b"ncarx0123456789012345678901234567890123456789    --~\0\n\t";
        let mut letter = |_| LETTERS[self.rng.usize(..LETTERS.len())];
        (0..len).map(&mut letter).collect()
    }

    fn number(&mut self) -> String {
        // Bad numbers are rare: a list of numbers is good only if all of them are.
        match self.rng.usize(..100) {
            0 => EXTREMES[self.rng.usize(..EXTREMES.len())].to_string(),
            1..8 => self.rng.u64(..).to_string(),
            _ => self.rng.u64(..self.end + 20).to_string(),
        }
    }

    /// Returns a text in the form of a response, of one of the dialects and one of the kinds.
    fn response(&mut self) -> Vec<u8> {
        let mut text = ["nca", "ncrx"][self.rng.usize(..2)].to_string();
        if self.rng.u8(..4) < 3 {
            text += &self.number();
        }
        let most = [0, 1, 4, 60][self.rng.usize(..4)];
        for _ in 0..self.rng.usize(..=most) {
            let number = self.number();
            text += &format!(" {number}");
            if self.rng.u8(..4) == 0 {
                text += &format!("-{}", self.number());
            }
        }
        let seen = self.session.clone();
        match (self.rng.usize(..8), seen) {
            (0, None) => {}
            (0 | 1, _) => text += " ~",
            (2, _) => text += &format!(" ~{:016x}", self.rng.u64(..)),
            (_, Some(session)) => text += &format!(" ~{session}"),
            (_, None) => text += &format!(" ~{:x}", self.rng.u32(..)),
        }
        text.into_bytes()
    }

    fn change(&mut self, text: &mut Vec<u8>) {
        let len = text.len();
        let at = self.rng.usize(..=len);
        let to = self.rng.usize(at..=len);
        match self.rng.usize(..10) {
            0 if at < len => text[at] ^= 1 << self.rng.usize(..8),
            1 if at < len => drop(text.remove(at)),
            2 => text.insert(at, self.rng.u8(..)),
            3 => {
                let letter = self.letters(1);
                text.splice(at..at, letter);
            }
            4 => text.truncate(at),
            5 => drop(text.drain(at..to)),
            6 => {
                let again = text[at..to].to_vec();
                text.splice(to..to, again);
            }
            7 => {
                let other = self.response();
                text.truncate(at);
                let from = self.rng.usize(..=other.len());
                text.extend_from_slice(&other[from..]);
            }
            8 => {
                let extreme = EXTREMES[self.rng.usize(..EXTREMES.len())];
                text.splice(at..to, extreme.bytes());
            }
            _ => {
                // Long ones, some just short enough, some too long.
                let goal = [996, 999, 1000, 1001, MAX, self.rng.usize(..MAX)];
                let goal = goal[self.rng.usize(..goal.len())];
                let filling = [b' ', b' ', b'0', b'\0'][self.rng.usize(..4)];
                let missing = goal.saturating_sub(len);
                text.splice(at..at, std::iter::repeat_n(filling, missing));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same() {
        let datagrams = |seed| {
            let mut forger = Forger::new(seed);
            (0..500).map(|_| forger.datagram()).collect::<Vec<_>>()
        };
        assert_eq!(datagrams(7), datagrams(7));
        assert_ne!(datagrams(7), datagrams(8));
    }

    #[test]
    fn of_every_length_and_kind() {
        let mut forger = Forger::new(1);
        forger.session = Some("0123456789abcdef".into());
        let mut lengths = vec![false; MAX + 1];
        let (mut named, mut text) = (0, 0);
        for _ in 0..100_000 {
            let datagram = forger.datagram();
            lengths[datagram.len()] = true;
            named += usize::from(datagram.ends_with(b" ~0123456789abcdef"));
            text += usize::from(datagram.starts_with(b"nc"));
        }
        let missing = lengths.iter().position(|seen| !seen);
        assert_eq!(missing, None);
        assert!(named > 5_000 && text > 50_000, "{named}, {text}");
    }
}
