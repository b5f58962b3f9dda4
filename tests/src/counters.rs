// SPDX-License-Identifier: GPL-2.0

//! The line of counters, `key=value`, that the module logs for a target when it is unloaded.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// The counters of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// The target.
    pub target: String,
    values: BTreeMap<String, String>,
}

impl Counters {
    /// Reads a line of the log: `... netconsole_ext: <target>: key=value ...`. A line that is
    /// something else is `None`.
    pub fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once("netconsole_ext: ")?;
        let (target, rest) = rest.split_once(": ")?;
        let mut values = BTreeMap::new();
        for word in rest.split_whitespace() {
            let (key, value) = word.split_once('=')?;
            values.insert(key.to_string(), value.to_string());
        }
        // Every such line has these two; other lines may have an equals sign by chance.
        let ours = values.contains_key("records") && values.contains_key("datagrams");
        ours.then(|| Self {
            target: target.to_string(),
            values,
        })
    }

    /// Returns the last such line of `target` among `lines`.
    pub fn last<'a>(lines: impl IntoIterator<Item = &'a str>, target: &str) -> Result<Self> {
        let found = lines.into_iter().filter_map(Self::parse);
        found
            .filter(|counters| counters.target == target)
            .last()
            .with_context(|| format!("no line with the counters of {target}"))
    }

    /// Returns the value of a key as text.
    pub fn text(&self, key: &str) -> Result<&str> {
        let value = self.values.get(key).map(String::as_str);
        value.with_context(|| format!("no counter {key:?} in {self:?}"))
    }

    /// Returns the value of a key as a number.
    pub fn get(&self, key: &str) -> Result<u64> {
        let text = self.text(key)?;
        text.parse()
            .with_context(|| format!("{key}={text} is not a number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [&str; 4] = [
        "[    1.0] netconsole_ext: cmdline0: state=enabled records=5 datagrams=6 lost=0",
        "[    2.0] netconsole_ext: cmdline1: state=enabled records=7 datagrams=7 lost=0",
        "[    3.0] netconsole_ext: cmdline0: ACK timeout enabled for 10.0.2.1:6666",
        "[    4.0] netconsole_ext: cmdline0: x=y",
    ];

    #[test]
    fn the_line_of_a_target() {
        let counters = Counters::last(LINES, "cmdline0").unwrap();
        assert_eq!(counters.get("datagrams").unwrap(), 6);
        assert_eq!(counters.text("state").unwrap(), "enabled");
        assert!(counters.get("state").is_err());
        assert!(counters.get("nothing").is_err());
        assert!(Counters::last(LINES, "cmdline2").is_err());
    }
}
