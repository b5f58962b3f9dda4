// SPDX-License-Identifier: GPL-2.0

//! Paths with fields in braces, which stand for what is known of a sender. Whatever a sender says,
//! no path leads out of the directory that the operator has written.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use regex::Regex;

use crate::format::is_harmful;

/// The longest value in a path, in bytes: names of files have at most 255.
const VALUE: usize = 200;
/// The longest name of a file or a directory with values in it: rotation puts something behind it.
const NAME: usize = 240;

/// The fields, for people.
pub const FIELDS: &str = "{host}, {ip}, {port}, {date} and {key:NAME}";

/// A field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// The host's name.
    Host,
    /// Its address.
    Ip,
    /// Its port.
    Port,
    /// The day on which a record came, of UTC.
    Date,
    /// The value of this key of its userdata.
    Key(String),
}

impl Field {
    fn parse(name: &str) -> Option<Self> {
        let key = |name: &&str| !name.is_empty() && !name.contains(['{', '/']);
        match name {
            "host" => Some(Self::Host),
            "ip" => Some(Self::Ip),
            "port" => Some(Self::Port),
            "date" => Some(Self::Date),
            _ => {
                let key = name.strip_prefix("key:").filter(key)?;
                Some(Self::Key(key.into()))
            }
        }
    }
}

/// A part of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text, maybe an empty one.
    Text(String),
    /// A field, which stands for something.
    Field(Field),
}

/// The facts about a sender.
pub struct Facts<'a> {
    /// Its name.
    pub host: &'a str,
    /// Its address and port.
    pub at: SocketAddr,
    /// Days since 1970.
    pub day: u64,
    /// The values of keys of its userdata.
    pub value: &'a dyn Fn(&str) -> Option<&'a str>,
}

/// A path with fields in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(Vec<Part>);

impl Template {
    /// Parses a path; the error is the name of a field that there is not.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, (name, after))) = split(rest) {
            let field = Field::parse(name).ok_or_else(|| name.to_owned())?;
            parts.extend([Part::Text(before.into()), Part::Field(field)]);
            rest = after;
        }
        if !rest.is_empty() || parts.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Ok(Self(parts))
    }

    /// Returns its parts.
    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// Returns its fields.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.0.iter().filter_map(|part| match part {
            Part::Field(field) => Some(field),
            Part::Text(_) => None,
        })
    }

    /// Returns the path of a sender's file.
    pub fn path(&self, facts: &Facts<'_>) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Field(Field::Host) => safe(facts.host),
            Part::Field(Field::Ip) => safe(&facts.at.ip().to_canonical().to_string()),
            Part::Field(Field::Port) => facts.at.port().to_string(),
            Part::Field(Field::Date) => date(facts.day),
            Part::Field(Field::Key(key)) => safe((facts.value)(key).unwrap_or_default()),
        };
        let path: String = self.0.iter().map(part).collect();
        let names = path.split('/').map(|name| cut(name, NAME));
        names.collect::<Vec<_>>().join("/")
    }

    /// Returns the directory in which all its files are.
    pub fn directory(&self) -> Option<PathBuf> {
        let Some(Part::Text(fixed)) = self.0.first() else {
            return None;
        };
        fixed.rfind('/').map(|at| PathBuf::from(&fixed[..=at]))
    }

    /// Returns the files that there are of this host, or of all, in order.
    pub fn files(&self, host: Option<&str>) -> io::Result<Vec<PathBuf>> {
        let part = |part: &Part| match (part, host) {
            (Part::Text(text), _) => regex::escape(text),
            (Part::Field(Field::Host), Some(host)) => regex::escape(&safe(host)),
            (Part::Field(Field::Port), _) => "[0-9]+".into(),
            (Part::Field(Field::Date), _) => "[0-9]{4}-[0-9]{2}-[0-9]{2}".into(),
            (Part::Field(_), _) => "[^/]+".into(),
        };
        let pattern: String = self.0.iter().map(part).collect();
        let directory = self.directory().unwrap_or_default();
        let depth = pattern.replace("[^/]", "").matches('/').count();
        let depth = depth - directory.display().to_string().matches('/').count();
        let pattern = Regex::new(&format!("^(?:{pattern})$")).map_err(io::Error::other)?;
        let mut all = Vec::new();
        find(&directory, depth, &pattern, &mut all)?;
        all.sort();
        Ok(all)
    }
}

/// Finds the regular files so many directories below this one whose paths fit.
fn find(directory: &Path, depth: usize, fits: &Regex, all: &mut Vec<PathBuf>) -> io::Result<()> {
    let here = match directory.as_os_str().is_empty() {
        true => Path::new("."),
        false => directory,
    };
    let entries = match fs::read_dir(here) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = directory.join(entry?.file_name());
        match depth {
            0 if fits.is_match(&path.to_string_lossy()) && path.is_file() => all.push(path),
            0 => {}
            // A directory that cannot be read is not ours.
            _ if path.is_dir() => drop(find(&path, depth - 1, fits, all)),
            _ => {}
        }
    }
    Ok(())
}

/// Splits `before{name}after`.
fn split(text: &str) -> Option<(&str, (&str, &str))> {
    let (before, rest) = text.split_once('{')?;
    Some((before, rest.split_once('}')?))
}

/// Returns a value as a part of a path that cannot lead elsewhere: `/`, control characters and dots
/// at the start become `_`, and it is neither empty nor long. So do white space and the backslash:
/// names are words of lines of text, which has escapes.
pub fn safe(value: &str) -> String {
    let harmless = |(at, c): (usize, char)| match c {
        '/' | '\\' => '_',
        '.' if at == 0 => '_',
        c if c.is_control() || c.is_whitespace() || is_harmful(c) => '_',
        c => c,
    };
    let name: String = value.char_indices().map(harmless).collect();
    match cut(&name, VALUE) {
        "" => "_".into(),
        name => name.into(),
    }
}

/// Returns the beginning of a text, of so many bytes at most.
fn cut(text: &str, most: usize) -> &str {
    let ends = |at: &usize| text.is_char_boundary(*at);
    let end = (0..=most.min(text.len())).rev().find(ends);
    &text[..end.unwrap_or(0)]
}

/// Returns a day as people write it.
fn date(day: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(day.min(2_932_896) * 86_400);
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text[..10].to_owned()
}

/// Returns the day of a time, since 1970.
pub fn day(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() / 86_400)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(template: &str, host: &str, rack: Option<&str>) -> String {
        let facts = Facts {
            host,
            at: "[::ffff:10.0.0.1]:6665".parse().unwrap(),
            day: 20_454,
            value: &|key| rack.filter(|_| key == "rack"),
        };
        Template::parse(template).unwrap().path(&facts)
    }

    #[test]
    fn fields_have_their_values() {
        assert_eq!(path("D/{host}.log", "web1", None), "D/web1.log");
        let all = "D/{key:rack}/{date}/{host}-{ip}-{port}";
        assert_eq!(
            path(all, "web1", Some("r7")),
            "D/r7/2026-01-01/web1-10.0.0.1-6665"
        );
        assert_eq!(path("{key:row}/{host}", "a", Some("r7")), "_/a");
        assert_eq!(path("D/{", "a", None), "D/{");
        for (text, name) in [("{Host}", "Host"), ("a{}", ""), ("{key:}", "key:")] {
            assert_eq!(Template::parse(text), Err(name.into()));
        }
    }

    #[test]
    fn no_value_leads_out_of_the_directory() {
        for (value, name) in [
            ("..", "_."),
            ("../../etc/passwd", "_._.._etc_passwd"),
            ("/etc/passwd", "_etc_passwd"),
            (".", "_"),
            ("", "_"),
            ("a\0b\n\u{1b}[2J\u{9b}", "a_b__[2J_"),
            (".bashrc", "_bashrc"),
            ("a b\u{3000}c\\x", "a_b_c_x"),
        ] {
            assert_eq!(
                path("D/{host}/{key:rack}", value, Some(value)),
                format!("D/{name}/{name}")
            );
        }
        let long = path(
            "D/{host}{key:rack}.log",
            &"é".repeat(500),
            Some(&"y".repeat(500)),
        );
        assert!(
            long.len() <= "D/".len() + NAME && long.starts_with("D/éé"),
            "{long}"
        );
    }

    #[test]
    fn files_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let template = format!(
            "{}/{{key:rack}}/{{date}}/{{host}}.log",
            dir.path().display()
        );
        let template = Template::parse(&template).unwrap();
        let mut made = Vec::new();
        for (rack, day, host) in [("r1", 1, "a.b"), ("r1", 2, "a.b"), ("r2", 1, "axb")] {
            let value = |_: &str| Some(rack);
            let at = "10.0.0.1:1".parse().unwrap();
            let facts = Facts {
                host,
                at,
                day,
                value: &value,
            };
            let path = PathBuf::from(template.path(&facts));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::write(path.with_extension("log.1"), "").unwrap();
            made.push(path);
        }
        assert_eq!(template.files(None).unwrap(), made);
        assert_eq!(template.files(Some("a.b")).unwrap(), made[..2]);
        assert!(template.files(Some("../r1")).unwrap().is_empty());
    }
}
