// SPDX-License-Identifier: GPL-2.0

//! The inputs of the fuzzer: the calls to a receiver, in turn.

use std::time::Duration;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use ncrx::{Config, Dialect};

#[derive(Arbitrary, Debug)]
pub struct Input<'a> {
    pub setting: Setting,
    pub ops: Vec<Op<'a>>,
    /// At the end the receiver is told to stop, rather than left alone.
    pub stop: bool,
}

#[derive(Arbitrary, Debug)]
pub struct Setting {
    nca: bool,
    history: bool,
    memory: Memory,
    forgetful: bool,
    few: bool,
}

#[derive(Arbitrary, Debug)]
enum Memory {
    Tiny,
    Small,
    Large,
}

impl Setting {
    pub fn config(&self) -> Config {
        let (host_memory, total_memory) = match self.memory {
            Memory::Tiny => (8 << 10, 12 << 10),
            Memory::Small => (64 << 10, 100 << 10),
            Memory::Large => (8 << 20, 1 << 30),
        };
        let default = Config::default();
        Config {
            dialect: if self.nca {
                Dialect::Nca
            } else {
                Dialect::Ncrx
            },
            history: self.history,
            host_memory,
            total_memory,
            forget: match self.forgetful {
                true => Duration::from_secs(30),
                false => default.forget,
            },
            // Many requests take long to write, and test no more than one.
            request_rate: 500,
            max_hosts: if self.few { 2 } else { default.max_hosts },
            ..default
        }
    }
}

/// One of three senders. The last one may send anything, so its records are not checked.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Host {
    A,
    B,
    Wild,
}

#[derive(Arbitrary, Debug)]
pub enum Op<'a> {
    Record(Host, Record),
    /// Many of them, each with a number so much higher.
    Burst(Host, Record, u8, u8),
    /// A sender logs from the start again.
    Reboot(Host),
    /// The records that it was last asked for, at most so many.
    Answer(Host, u8, Record),
    Raw(&'a [u8]),
    Text(Host, u8),
    Empty(Host),
    /// The passing of some milliseconds: a power of two, or until something is due.
    Pass(u8),
    Wait,
    Tick,
    /// At most this number of outputs is taken.
    Take(u8),
    TakeAll,
    Written,
    /// The receiver ends without another word, and a new one goes on.
    Restart,
}

/// The parts of a record that do not follow from its number.
#[derive(Arbitrary, Clone, Debug)]
pub struct Record {
    pub number: Number,
    /// Its clock, if it is none of what its sender shows.
    pub clock: Option<u64>,
    pub session: bool,
    /// In one of two forms.
    pub emergency: Option<bool>,
    pub skip: Option<(Number, u8)>,
    pub lost: Option<(Number, u8)>,
    pub release: bool,
    pub keys: bool,
    pub len: u16,
    pub fragment: Option<Fragment>,
    pub notice: bool,
}

#[derive(Arbitrary, Clone, Debug)]
pub enum Number {
    /// The next one that the sender has not used.
    Next,
    Below(u8),
    Above(u8),
    Small(u8),
    Far(u32),
    Any(u64),
}

/// The part from one byte on.
#[derive(Arbitrary, Clone, Debug)]
pub enum Fragment {
    Total {
        from: u16,
        len: u16,
    },
    Index {
        from: u16,
        len: u16,
        index: u8,
        count: u8,
    },
}
