// SPDX-License-Identifier: GPL-2.0

//! A chunk: records and events are collected for all outputs, by the files that they are for, and
//! handed on at once.

use std::sync::atomic::Ordering::Relaxed;

use ncrx::{Output, Standing, Token};

use super::Outputs;
use crate::again::Ends;
use crate::format::When;
use crate::groups::{End, Group};
use crate::sink::{Batch, Facts, Parcel};

/// The facts about a record or an event.
pub(super) struct Part<'a> {
    /// The host's name.
    pub(super) name: &'a str,
    pub(super) when: &'a When,
    pub(super) standing: Standing,
    pub(super) token: Option<Token>,
    /// The outputs that want it: none if it was only to be acknowledged.
    pub(super) wants: Ends,
}

impl Outputs {
    /// Puts it into the groups of its sender. Returns its bytes in all.
    pub(super) fn put(&mut self, output: &Output<'_>, part: &Part<'_>) -> usize {
        let host = match output {
            Output::Record(record) => record.host(),
            Output::Event { host, .. } => *host,
        };
        let value = |key: &str| self.userdata.get(host, key);
        let facts = Facts {
            host: part.name,
            at: host,
            day: self.day,
            value: &value,
        };
        let key = self.keys.of(&self.ends, &facts);
        // Nearly always it is there.
        let group = match self.groups.get_mut(key) {
            Some(group) => group,
            None => {
                let group = Group::new(&self.ends, &facts);
                self.groups.entry(key.into()).or_insert(group)
            }
        };
        group.records += 1;
        group.proven |= part.standing == Standing::Proven;
        group.tokens.extend(part.token);
        let mut length = 0;
        let open = |(_, end): &(usize, &mut End)| {
            end.open && (part.wants >> end.nth) & 1 > 0 && end.has(output)
        };
        for (nth, end) in self.ends.iter_mut().enumerate().filter(open) {
            let bytes = match end.template {
                Some(_) => &mut group.bytes[nth].1,
                None => &mut end.bytes,
            };
            let before = bytes.len();
            end.formatter.write(output, part.name, part.when, bytes);
            length += bytes.len() - before;
        }
        length
    }

    /// Writes the crashes that were found to the outputs that have them; returns whether there were
    /// any.
    pub(super) fn tell_crashes(&mut self) -> bool {
        let crashes = self.watcher.take();
        let open = |end: &End| end.open && end.formatter.has_crashes();
        if crashes.is_empty() || !self.ends.iter().any(open) {
            return false;
        }
        for crash in &crashes {
            let value = |key: &str| self.userdata.get(crash.address, key);
            let facts = Facts {
                host: &crash.host,
                at: crash.address,
                day: self.day,
                value: &value,
            };
            let key = self.keys.of(&self.ends, &facts);
            let new = || Group::new(&self.ends, &facts);
            let group = self.groups.entry(key.into()).or_insert_with(new);
            group.records += 1;
            for (nth, end) in self.ends.iter_mut().enumerate() {
                if open(end) {
                    let bytes = match end.template {
                        Some(_) => &mut group.bytes[nth].1,
                        None => &mut end.bytes,
                    };
                    end.formatter.write_crash(crash, bytes);
                }
            }
        }
        true
    }

    /// Gives the outputs what was taken.
    pub(super) fn hand_on(&mut self) {
        let mut parcels = Vec::with_capacity(self.groups.len());
        let mut records = 0;
        for (_, mut group) in self.groups.drain() {
            let parcel = Parcel::new(group.tokens, self.settled.clone());
            for (nth, end) in self.ends.iter().enumerate() {
                let promised = end.promised.then(|| parcel.clone());
                if !end.open {
                    end.queue.status.refused.fetch_add(group.records, Relaxed);
                    promised
                        .into_iter()
                        .for_each(|parcel| parcel.refuse(end.nth));
                } else if end.template.is_some() {
                    let (file, bytes) = std::mem::take(&mut group.bytes[nth]);
                    if bytes.is_empty() {
                        // Nothing of it is for this output.
                        continue;
                    }
                    end.queue.push(Batch {
                        file,
                        host: group.host.clone(),
                        bytes,
                        records: group.records,
                        proven: group.proven,
                        parcels: promised.into_iter().collect(),
                    });
                }
            }
            records += group.records;
            parcels.push(parcel);
        }
        let whole = |end: &&mut End| end.open && end.template.is_none() && !end.bytes.is_empty();
        for end in self.ends.iter_mut().filter(whole) {
            end.queue.push(Batch {
                bytes: std::mem::take(&mut end.bytes),
                records,
                parcels: if end.promised {
                    parcels.clone()
                } else {
                    Vec::new()
                },
                ..Batch::default()
            });
        }
        self.under_way += parcels.len();
        // Ours are the last, if nobody else wants them.
        parcels.into_iter().for_each(Parcel::written);
    }
}
