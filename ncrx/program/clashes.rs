// SPDX-License-Identifier: GPL-2.0

//! Paths of outputs that can come to the same file: for some sender, or when files are rotated.

use regex::Regex;

use crate::sink::{Field, Part, Template};

/// An address, maybe with a port, as hosts are called that nobody gives a name.
const ADDRESS: &str =
    r"\[?(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(?:%[^/]+)?)\]?(?::[0-9]+)?";

/// Returns whether two paths, with fields or without, can be the same. `named` tells whether
/// senders choose the names of hosts (`--host-key`).
pub fn can_meet(one: &str, other: &str, named: bool) -> bool {
    let (ones, others) = (one.split('/'), other.split('/'));
    ones.clone().count() == others.clone().count()
        && ones.zip(others).all(|(one, other)| {
            let (one, other) = (Name::parse(one, named), Name::parse(other, named));
            one.can_meet(&other)
        })
}

/// Returns whether a sender chooses how the name of a file ends: it can be that of another's old
/// file.
pub fn ends_in_a_choice(path: &str, named: bool) -> bool {
    let template = Template::parse(path).unwrap_or_default();
    template.parts().last().is_some_and(|part| match part {
        Part::Field(field) => is_chosen(field, named),
        Part::Text(_) => false,
    })
}

/// Returns whether a sender can give a field any value.
fn is_chosen(field: &Field, named: bool) -> bool {
    match field {
        Field::Host => named,
        Field::Key(_) => true,
        Field::Ip | Field::Port | Field::Date => false,
    }
}

/// A part of a path between two `/`.
struct Name {
    /// The text before the first field, and that behind the last one.
    begin: String,
    end: String,
    /// Whether it has fields, and one of them may have any value.
    has_fields: bool,
    is_chosen: bool,
    /// A pattern of all that it can be, and one of these; if no field may have any value.
    pattern: String,
    sample: String,
}

impl Name {
    fn parse(text: &str, named: bool) -> Self {
        let template = Template::parse(text).unwrap_or_default();
        let mut name = Self {
            begin: String::new(),
            end: String::new(),
            has_fields: false,
            is_chosen: false,
            pattern: String::new(),
            sample: String::new(),
        };
        for part in template.parts() {
            let (pattern, sample) = match part {
                Part::Text(text) => (regex::escape(text), text.as_str()),
                Part::Field(Field::Host | Field::Ip) => (ADDRESS.into(), "10.0.0.1"),
                Part::Field(Field::Port) => ("[0-9]+".into(), "6665"),
                Part::Field(Field::Date) => ("[0-9]{4}-[0-9]{2}-[0-9]{2}".into(), "2026-01-01"),
                Part::Field(Field::Key(_)) => ("[^/]+".into(), "x"),
            };
            name.pattern.push_str(&pattern);
            name.sample.push_str(sample);
            match part {
                Part::Text(text) if name.has_fields => name.end.push_str(text),
                Part::Text(text) => name.begin.push_str(text),
                Part::Field(field) => {
                    name.end.clear();
                    name.has_fields = true;
                    name.is_chosen |= is_chosen(field, named);
                }
            }
        }
        if !name.has_fields {
            name.end = name.begin.clone();
        }
        name
    }

    fn can_meet(&self, other: &Self) -> bool {
        if !self.is_chosen && !other.is_chosen {
            return self.is_like(other) || other.is_like(self);
        }
        let (begins, ends) = ((&self.begin, &other.begin), (&self.end, &other.end));
        (begins.0.starts_with(begins.1) || begins.1.starts_with(begins.0))
            && (ends.0.ends_with(ends.1) || ends.1.ends_with(ends.0))
            && self.fits_into(other)
            && other.fits_into(self)
    }

    /// Returns whether this can be something that the other can be.
    fn is_like(&self, other: &Self) -> bool {
        let pattern = Regex::new(&format!("^(?:{})$", other.pattern));
        pattern.is_ok_and(|pattern| pattern.is_match(&self.sample))
    }

    /// Returns whether a text without fields is long enough to have a value between its ends.
    fn fits_into(&self, other: &Self) -> bool {
        self.has_fields || self.begin.len() > other.begin.len() + other.end.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_can_be_the_same_are_known() {
        for (one, other, named, meet) in [
            ("/g/{ip}.log", "/g/{host}.log", false, true),
            ("/g/{host}.log", "/g/all.log", false, false),
            ("/g/{host}.log", "/g/all.log", true, true),
            ("/g/{host}.log", "/g/all.json", true, false),
            ("/g/{host}.log", "/g/::1.log", false, true),
            ("/g/{host}.log", "/g/10.0.0.1.log", false, true),
            ("/g/{host}.log", "/g/.log", true, false),
            ("/g/{host}.log", "/h/{host}.log", true, false),
            ("/g/{host}.log", "/g/x/{host}.log", true, false),
            ("/g/{host}", "/g/{host}.json", false, false),
            ("/g/{host}", "/g/{host}.json", true, true),
            ("/g/{host}.log", "/g/{host}-{date}.log", false, false),
            ("/g/{host}.log", "/g/{date}.log", true, true),
            ("/g/{key:a}/x", "/g/{date}/x", false, true),
            ("/g/a-{key:a}", "/g/b-{key:b}", false, false),
            ("/g/{host}", "/g/lock", true, true),
            ("/g/{host}", "/g/lock", false, false),
        ] {
            assert_eq!(can_meet(one, other, named), meet, "{one} {other} {named}");
            assert_eq!(can_meet(other, one, named), meet, "{other} {one} {named}");
        }
    }

    #[test]
    fn names_that_end_as_a_sender_likes_are_known() {
        for (path, named, ends) in [
            ("g/{host}", true, true),
            ("g/{host}", false, false),
            ("g/{host}.log", true, false),
            ("g/x-{key:rack}", false, true),
            ("g/{key:rack}/{ip}", true, false),
        ] {
            assert_eq!(ends_in_a_choice(path, named), ends, "{path} {named}");
        }
    }
}
