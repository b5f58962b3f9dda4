// SPDX-License-Identifier: GPL-2.0

//! A worker's ends of all outputs, and what it hands on to them at once, by the files that it is
//! for.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use ncrx::{Output, Token};

use crate::choices::Look;
use crate::format::Formatter;
use crate::sink::{Facts, Field, Place, Queue, Sink, Template};

/// One output of a worker.
pub struct End {
    /// Its number.
    pub nth: usize,
    /// The least urgent level of its records.
    pub level: Option<u8>,
    /// The format of its records.
    pub formatter: Formatter,
    /// Its queue.
    pub queue: Arc<Queue>,
    /// Whether records are acknowledged only when they are here.
    pub promised: bool,
    /// The paths of files, if each host has its own.
    pub template: Option<Template>,
    /// Whether it takes the records of this chunk.
    pub open: bool,
    /// The time since when its queue is more than half full.
    pub crowded: Option<Instant>,
    /// The bytes of the chunk for its only file.
    pub bytes: Vec<u8>,
}

impl End {
    /// Returns the end of this output.
    pub fn new(sink: &Sink, look: &Look) -> Self {
        Self {
            nth: sink.nth,
            level: look.level,
            formatter: look.formatter(),
            queue: sink.queue.clone(),
            promised: sink.promised,
            template: match &sink.place {
                Place::PerHost(path) => Template::parse(path).ok(),
                _ => None,
            },
            open: true,
            crowded: None,
            bytes: Vec::new(),
        }
    }

    /// Has records look so from now on.
    pub fn set(&mut self, look: &Look) {
        (self.level, self.formatter) = (look.level, look.formatter());
    }

    /// Returns whether it may be worth trying again what it has refused. Where each host has a file
    /// of its own one that cannot be written says nothing of the others.
    pub fn is_able(&self) -> bool {
        !self.queue.is_crowded() && (self.template.is_some() || !self.queue.is_blocked())
    }

    /// Returns whether it is to have this, by its level.
    pub fn has(&self, output: &Output<'_>) -> bool {
        let level = match output {
            Output::Record(record) => record.level(),
            Output::Event { .. } => None,
        };
        let urgent = |most: u8| level.is_none_or(|level| level <= most);
        self.level.is_none_or(urgent)
    }

    /// Returns the fields of its paths.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.template.iter().flat_map(Template::fields)
    }
}

/// The part of a chunk that is of one host, or of all.
#[derive(Default)]
pub struct Group {
    /// The records of it that have numbers.
    pub tokens: Vec<Token>,
    /// Records and events.
    pub records: u64,
    /// Whether a sender has proven itself of which something is here.
    pub proven: bool,
    /// The host.
    pub host: Arc<str>,
    /// For the host's file, of each output that has one: its path, and what is for it.
    pub bytes: Vec<(Arc<str>, Vec<u8>)>,
}

impl Group {
    /// Returns an empty one, of this sender.
    pub fn new(ends: &[End], facts: &Facts<'_>) -> Self {
        let path = |end: &End| end.template.as_ref().map(|template| template.path(facts));
        let empty = |end: &End| (path(end).unwrap_or_default().into(), Vec::new());
        Self {
            host: facts.host.into(),
            bytes: ends.iter().map(empty).collect(),
            ..Self::default()
        }
    }
}

/// The difference between the groups of a chunk: none, the host's name, or all parts of a path.
pub struct Keys {
    per_host: bool,
    per_sender: bool,
    key: String,
}

impl Keys {
    /// Returns those that these outputs need.
    pub fn new(ends: &[End]) -> Self {
        let mut fields = ends.iter().flat_map(End::fields);
        Self {
            per_host: ends.iter().any(|end| end.template.is_some()),
            per_sender: fields.any(|field| *field != Field::Host),
            key: String::new(),
        }
    }

    /// Returns the key of a sender.
    pub fn of<'a>(&'a mut self, ends: &[End], facts: &Facts<'a>) -> &'a str {
        if !self.per_sender {
            return if self.per_host { facts.host } else { "" };
        }
        self.key.clear();
        // Writing into memory does not fail.
        let _ = write!(self.key, "{}\0{}\0{}", facts.host, facts.at, facts.day);
        for field in ends.iter().flat_map(End::fields) {
            if let Field::Key(key) = field {
                let _ = write!(self.key, "\0{}", (facts.value)(key).unwrap_or_default());
            }
        }
        &self.key
    }
}
