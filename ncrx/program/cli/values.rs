// SPDX-License-Identifier: GPL-2.0

//! The values of options: what they may be, and what is said of those that may not.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::ValueEnum;
use ncrx::Dialect;

use super::PORT;
use crate::addr;
use crate::format::{self, Format};
use crate::sink::{Fsync, Place, Template, FIELDS, HOST};

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(pub Vec<String>);

/// Parses a program and its arguments.
pub fn words(text: &str) -> Result<Words, String> {
    let words = shlex::split(text).filter(|words| !words.is_empty() && !words[0].is_empty());
    words
        .map(Words)
        .ok_or_else(|| "write a program and its arguments; a quote may be open".into())
}

/// When something is done that depends on where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// It depends.
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

impl When {
    /// Returns whether to do it; `auto` if that depends.
    pub fn is(self, auto: bool) -> bool {
        match self {
            Self::Auto => auto,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// `[FORMAT][,level=LEVEL]:PLACE`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its format, if it is not that of all.
    pub format: Option<Format>,
    /// The least urgent level of its records, if it has not all.
    pub level: Option<u8>,
    /// Its place.
    pub place: Place,
}

/// Formats by their names.
pub const FORMATS: &[(&str, Format)] = &[
    ("text", Format::Text),
    ("json", Format::Json),
    ("export", Format::Export),
    ("syslog", Format::Syslog),
];
/// Languages of responses by their names.
pub const DIALECTS: &[(&str, Dialect)] = &[("nca", Dialect::Nca), ("ncrx", Dialect::Ncrx)];
/// When to force files to the disk, by its name.
pub const FSYNCS: &[(&str, Fsync)] = &[("never", Fsync::Never), ("always", Fsync::Always)];

fn find<T: Copy>(names: &[(&str, T)], name: &str) -> Option<T> {
    names
        .iter()
        .find(|(n, _)| *n == name)
        .map(|(_, value)| *value)
}

/// Returns a parser of these names.
pub fn one_of<T: Copy + Send + Sync>(
    names: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    let known = PossibleValuesParser::new(names.iter().map(|(name, _)| *name));
    known.try_map(move |name| find(names, &name.to_lowercase()).ok_or("unknown"))
}

/// `ADDR:PORT`, `ADDR` or `PORT`.
pub fn listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok((Ipv6Addr::UNSPECIFIED, port).into());
    }
    let Some((address, port)) = addr::parse(text) else {
        return Err(match text.split_once('%') {
            Some((_, link)) => {
                let link = link.split(']').next().unwrap_or_default();
                format!("there is no link `{link}`; `ip link` shows them")
            }
            None => "write an address with a port, or one of them: 10.0.0.1:6666, [::1]:6666, 6666"
                .into(),
        });
    };
    Ok(address.with_port(port.unwrap_or(PORT)))
}

/// `ADDR:PORT` or `PORT`.
pub fn metrics(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    match addr::parse(text) {
        Some((address, Some(port))) => Ok(address.with_port(port)),
        _ => Err("write an address with a port, or a port: 127.0.0.1:9666, [::]:9666, 9666".into()),
    }
}

/// Returns whether the part before a `:` is meant as a format and a level, and not as the beginning
/// of a path: one word, or some with commas, or a format with whatever behind it.
fn is_meant(names: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "_+.-".contains(c);
    let is_word = names.len() > 1 && names.chars().all(legal);
    let begin = names.split(|c: char| !c.is_ascii_alphanumeric()).next();
    let has_format = begin.is_some_and(|name| find(FORMATS, &name.to_lowercase()).is_some());
    let has_names = is_word || has_format || names.contains(',') || names.starts_with("level=");
    has_names && !names.contains('/')
}

/// Parses an output.
pub fn output(text: &str) -> Result<Output, String> {
    let (mut format, mut level, mut place) = (None, None, text);
    if let Some((names, rest)) = text.split_once(':').filter(|(names, _)| is_meant(names)) {
        place = rest;
        for name in names.split(',') {
            let given = match name.strip_prefix("level=") {
                Some(name) => level.replace(format::level(name)?).is_some(),
                None => {
                    let found = find(FORMATS, &name.to_lowercase());
                    let found = found.ok_or_else(|| unknown(text, name, rest))?;
                    format.replace(found).is_some()
                }
            };
            if given {
                return Err(format!(
                    "`{names}` has two formats or two levels: write one, or another --output"
                ));
            }
        }
    }
    if place.starts_with("//") && format.is_some() {
        return Err(format!(
            "nothing is sent to `{text}`: write to standard output, and pipe that to what does, as \
             `ncrx --format syslog | nc HOST 514`"
        ));
    }
    if find(FORMATS, &text.to_lowercase()).is_some() {
        return Err(format!(
            "{text} is a format: write {text}:FILE or {text}:-, or ./{text} if that is a file's name"
        ));
    }
    let template = Template::parse(place);
    let template = template.map_err(|name| format!("there is no {{{name}}}, but {FIELDS}"))?;
    let place = match place {
        "" => return Err("write a file's name behind it, or `-` for standard output".into()),
        "-" => Place::Stdout,
        path if path.ends_with('/') => {
            return Err(format!(
                "it is a directory: write {path}{HOST}.log, or a file's name"
            ))
        }
        path if template.fields().next().is_some() => Place::PerHost(path.into()),
        path => Place::File(path.into()),
    };
    Ok(Output {
        format,
        level,
        place,
    })
}

/// The error of an output whose format there is not.
fn unknown(text: &str, name: &str, rest: &str) -> String {
    if rest.starts_with("//") {
        return format!(
            "nothing is sent to `{name}://`: write to standard output, and pipe that to what does, as \
             `ncrx --format syslog | nc HOST 514`"
        );
    }
    format!(
        "there is no format `{name}`, but text, json, export and syslog, and level=LEVEL behind a \
         comma; write ./{text} if that is a file's name"
    )
}

/// Parses a size; bytes if there is no unit.
pub fn size(text: &str) -> Result<u64, String> {
    match text.parse::<ByteSize>() {
        Ok(size) if size.as_u64() > 0 => Ok(size.as_u64()),
        _ => Err("write a size above zero: 65536, 100M (million), 8Mi (2^20), 1G".into()),
    }
}

/// The longest time: no clock comes to its end by that.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Parses a time; seconds if there is no unit.
pub fn time(text: &str) -> Result<Duration, String> {
    let time = match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    let long = time.filter(|time| *time > Duration::ZERO && *time <= LONGEST);
    long.ok_or_else(|| {
        "write a time above zero, and of a year at most: 90, 90s, 1m 30s, 500ms".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, address) in [
            ("6667", "[::]:6667"),
            ("10.0.0.1", "10.0.0.1:6666"),
            ("::1", "[::1]:6666"),
            ("[::1]", "[::1]:6666"),
            ("[::1]:1", "[::1]:1"),
            ("fe80::1%1", "[fe80::1%1]:6666"),
            ("[fe80::1%lo]:7", "[fe80::1%1]:7"),
        ] {
            assert_eq!(listen(text), Ok(address.parse().unwrap()), "{text}");
        }
        assert!(listen("localhost").is_err());
        assert!(listen("66666").is_err());
    }

    #[test]
    fn outputs() {
        let parsed = |text| output(text).map(|o| (o.format, o.place)).unwrap();
        assert_eq!(parsed("-"), (None, Place::Stdout));
        assert_eq!(parsed("json:-"), (Some(Format::Json), Place::Stdout));
        assert_eq!(parsed("./json:x"), (None, Place::File("./json:x".into())));
        assert_eq!(
            parsed("a/{host}.log"),
            (None, Place::PerHost("a/{host}.log".into()))
        );
        assert_eq!(parsed("JSON:x").0, Some(Format::Json));
        assert_eq!(parsed("d/a:b").1, Place::File("d/a:b".into()));
        let urgent = output("json,level=err:x").unwrap();
        assert_eq!((urgent.format, urgent.level), (Some(Format::Json), Some(3)));
        assert_eq!(output("level=4:x").unwrap().level, Some(4));
        assert_eq!(parsed("a=b:c").1, Place::File("a=b:c".into()));
        for path in ["json/x:y", "./a,b:c", "d/json,text:x", "a b:c"] {
            assert_eq!(parsed(path).1, Place::File(path.into()));
        }
        for (text, remedy) in [
            ("level=loud:x", "emerg"),
            ("yaml,level=3:x", "text, json"),
            ("json,levl=err:g/x.log", "`levl=err`"),
            ("json;level=err:g/x.log", "`json;level=err`"),
            ("json, level=err:x", "level=LEVEL"),
            ("json,text:x", "two formats"),
            ("level=3,level=4:x", "two levels"),
            ("json:", "standard output"),
            ("xml:foo", "text, json, export and syslog"),
            ("xml:foo", "./xml:foo"),
            ("udp://h:514", "pipe"),
            ("D/{Host}.log", "{host}"),
            ("D/", "D/{host}.log"),
            ("json", "json:-"),
            ("Syslog", "./Syslog"),
            ("syslog://h", "pipe"),
        ] {
            let error = output(text).unwrap_err();
            assert!(error.contains(remedy), "{text}: {error}");
        }
    }

    #[test]
    fn where_metrics_are() {
        let parsed = |text| metrics(text).map(|at| at.to_string());
        assert_eq!(parsed("9666"), Ok("127.0.0.1:9666".into()));
        assert_eq!(parsed("[::]:9666"), Ok("[::]:9666".into()));
        assert!(metrics("localhost").is_err() && metrics("10.0.0.1").is_err());
    }

    #[test]
    fn programs_and_their_arguments() {
        let parsed = |text| words(text).map(|words| words.0.join("|"));
        assert_eq!(
            parsed("mail -s 'a crash' root"),
            Ok("mail|-s|a crash|root".into())
        );
        assert_eq!(parsed("x $(y); z"), Ok("x|$(y);|z".into()));
        assert!(parsed("").is_err() && parsed("mail 'root").is_err() && parsed("''").is_err());
    }

    #[test]
    fn sizes_and_times() {
        assert_eq!(size("100M"), Ok(100_000_000));
        assert_eq!(size("8Mi"), Ok(8 << 20));
        assert!(size("0").is_err() && size("much").is_err());
        assert_eq!(time("90"), Ok(Duration::from_secs(90)));
        assert_eq!(time("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(time("0").is_err() && time("soon").is_err());
    }
}
