// SPDX-License-Identifier: GPL-2.0

//! The table of locks in the crate's documentation, beside what lockdep has seen.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{ensure, Context, Result};

use super::sh;
use crate::scene::Scene;

/// The crate root, whose documentation has the table.
const CRATE: &str = include_str!("../../../netconsole_ext.rs");
/// The head of the table.
const HEAD: &str = "//! | lock | taken by | inside of |";
/// Names of the table that are not ours, as lockdep has them.
const FOREIGN: &[(&str, &str)] = &[
    ("rtnl", "rtnl_mutex"),
    ("pernet_ops_rwsem", "pernet_ops_rwsem"),
];

/// Locks that may well not be taken within a minute.
const RARE: &[&str] = &["Alarm::changing", "Netcon::buffer", "Replay::state"];

/// Work items, which lockdep takes for locks that are held while they run.
const WORK: &[&str] = &["Control::resume", "Pool::refill", "Target::work"];

/// For each lock, the locks that may be held when it is taken; `None`: any.
type Table = BTreeMap<String, Option<BTreeSet<String>>>;

/// Fails unless lockdep knows each lock of the table, but for rare ones, no other lock of ours, and
/// has seen no order that the table does not allow. To be called when much has happened, and before
/// the module is unloaded, since lockdep forgets its locks then.
pub fn are_as_documented(scene: &mut Scene) -> Result<()> {
    let table = table()?;
    let text = sh(scene, "cat /proc/lockdep")?;
    ensure!(!text.contains("*WARNING*"), "lockdep is off");
    let seen = seen(&text);
    let often = |lock: &&String| is_ours(lock) && !RARE.contains(&lock.as_str());
    for lock in table.keys().filter(often) {
        ensure!(seen.contains_key(lock), "{lock} was never taken");
    }
    let mut pairs = 0;
    for (outer, inners) in &seen {
        ensure!(
            !is_ours(outer) || table.contains_key(outer),
            "{outer} is not in the table"
        );
        for inner in inners.iter().filter(|inner| table.contains_key(*inner)) {
            if table.contains_key(outer) {
                pairs += 1;
                let allowed = is_inside(&table, inner, outer);
                ensure!(allowed, "the table does not have {inner} inside of {outer}");
            }
        }
    }
    println!("locks: {pairs} pairs of the table's were seen, all as it says");
    Ok(())
}

/// Returns whether the name is one that this module has given: nothing else in the test kernel has
/// locks with a name in Rust's manner.
fn is_ours(lock: &str) -> bool {
    lock.contains("::") && !WORK.contains(&lock)
}

/// Returns whether `inner` may be taken while `outer` is held, directly or by way of other locks.
fn is_inside(table: &Table, inner: &str, outer: &str) -> bool {
    match table.get(inner) {
        None => false,
        Some(None) => true,
        Some(Some(outers)) => {
            let mut outers = outers.iter();
            outers.any(|next| next == outer || is_inside(table, next, outer))
        }
    }
}

/// Reads the table.
fn table() -> Result<Table> {
    let (_, rows) = CRATE.split_once(HEAD).context("no table of locks")?;
    let mut table = Table::new();
    for row in rows.lines().skip(2).take_while(|l| l.starts_with("//! |")) {
        let cells: Vec<_> = row.split('|').collect();
        let [_, lock, _, outers, _] = cells[..] else {
            anyhow::bail!("not a row of three cells: {row}");
        };
        let outers = (outers.trim() != "any").then(|| names(outers).collect());
        for lock in names(lock) {
            table.insert(lock, outers.clone());
        }
    }
    Ok(table)
}

/// Returns the names in backticks, as lockdep has them.
fn names(cell: &str) -> impl Iterator<Item = String> + '_ {
    cell.split('`').skip(1).step_by(2).map(|name| {
        let foreign = FOREIGN.iter().find(|(ours, _)| *ours == name);
        foreign.map_or(name, |(_, theirs)| theirs).to_string()
    })
}

/// Returns, for each lock, those that were taken while it was held.
fn seen(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut outer = String::new();
    for line in text.lines() {
        if let Some((_, name)) = line.split_once("] ").filter(|_| line.starts_with(" -> ")) {
            let inners = seen.entry(outer.clone()).or_default();
            inners.insert(plain(name));
        } else if let Some((_, name)) = line.split_once(": ").filter(|_| line.contains(" FD:")) {
            // The rest of it: "<key> FD: n BD: n usage: name".
            let name = name.rsplit_once(": ").map_or(name, |(_, name)| name);
            outer = plain(name);
            seen.entry(outer.clone()).or_default();
        }
    }
    seen
}

/// A class's name without the number of its version and of its subclass.
fn plain(name: &str) -> String {
    let end = name.find(['#', '/']).unwrap_or(name.len());
    name[..end].trim().to_string()
}
