// SPDX-License-Identifier: GPL-2.0

//! Options from a file (`--config`, TOML): a key is an option without its dashes. The command line
//! wins. Each value is parsed by the parser of the options, so that the file knows all of them, and
//! no other rules.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail, ensure, Context};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches, Parser};
use toml::de::{DeTable, DeValue};

use crate::commands::Program;
use crate::setup;

/// Options that make no sense in a file.
const NOT_HERE: [&str; 6] = ["config", "check", "completions", "man", "help", "version"];

/// An option of a file.
struct Given {
    /// The line where it is.
    line: usize,
    arguments: Vec<String>,
}

/// Options by their names.
type Options = BTreeMap<String, Given>;

/// The command line and the file.
pub struct Settings {
    path: PathBuf,
    line: Vec<OsString>,
    /// The options of the file that ncrx was started with.
    started: Option<Options>,
}

/// Parses the command line, and the file that it names. Errors of the line end the program, as they
/// do without a file. One that is returned is the file's.
pub fn parse() -> anyhow::Result<(Program, Option<Settings>)> {
    let line: Vec<_> = std::env::args_os().collect();
    // Arguments that the line lacks may be in the file.
    let first = Program::command().ignore_errors(true);
    let matches = first.try_get_matches_from(&line);
    let path = matches.ok().and_then(|matches| {
        let path = matches.try_get_one::<PathBuf>("config").ok().flatten();
        path.cloned()
    });
    let Some(path) = path else {
        return Ok((Program::parse_from(line), None));
    };
    if let Err(e) = Program::command().try_get_matches_from(&line) {
        if e.kind() != ErrorKind::MissingRequiredArgument {
            e.exit();
        }
    }
    let mut settings = Settings {
        path,
        line,
        started: None,
    };
    let (program, _) = settings.read()?;
    Ok((program, Some(settings)))
}

impl Settings {
    /// Reads the file; returns all options, and the names of those that are not as they were when
    /// ncrx was started.
    pub fn read(&mut self) -> anyhow::Result<(Program, Vec<String>)> {
        let text = std::fs::read_to_string(&self.path);
        let text = text.with_context(|| format!("--config {}", self.path.display()))?;
        let command = Program::command();
        let mut options = options(&command, &self.path, &text)?;
        let first = command.clone().ignore_errors(true);
        let given = first.try_get_matches_from(&self.line)?;
        let by_line = |name: &str| {
            let id = name.replace('-', "_");
            given.try_contains_id(&id).is_ok()
                && given.value_source(&id) == Some(ValueSource::CommandLine)
        };
        options.retain(|name, _| !by_line(name));
        let matches = self.matches(&command, options.values());
        let matches = matches.map_err(|e| match e.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => e.exit(),
            _ => self.blame(&command, &options, &e),
        })?;
        let program = Program::from_arg_matches(&matches)?;
        setup::suits(&program.cli)?;
        let Some(started) = &self.started else {
            self.started = Some(options);
            return Ok((program, Vec::new()));
        };
        let arguments = |of: &Options, name: &str| of.get(name).map(|is| is.arguments.clone());
        let names: BTreeSet<_> = options.keys().chain(started.keys()).collect();
        let changed = names
            .into_iter()
            .filter(|name| arguments(&options, name) != arguments(started, name));
        Ok((program, changed.cloned().collect()))
    }

    /// Parses the line with these options of the file.
    fn matches<'a>(
        &self,
        command: &Command,
        options: impl Iterator<Item = &'a Given>,
    ) -> clap::error::Result<ArgMatches> {
        let mut all = self.line.clone();
        let ours = options.flat_map(|given| &given.arguments);
        all.splice(1..1, ours.map(OsString::from));
        command.clone().try_get_matches_from(all)
    }

    /// Returns an error of all options together, with the first of the file without which there is
    /// none, if there is such a one.
    fn blame(&self, command: &Command, options: &Options, e: &clap::Error) -> anyhow::Error {
        let is_to_blame = |(name, _): &(&String, &Given)| {
            let others = options.iter().filter(|(other, _)| other != name);
            self.matches(command, others.map(|(_, given)| given))
                .is_ok()
        };
        let path = self.path.display();
        let first = options.iter().filter(is_to_blame);
        match first.min_by_key(|(_, given)| given.line) {
            Some((name, given)) => anyhow!("{path}:{}: {name}: {}", given.line, words(e)),
            None => anyhow!("--config {path}: {}", words(e)),
        }
    }

    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Returns the options of a file, each as its arguments. An error names the line and the key.
fn options(command: &Command, path: &Path, text: &str) -> anyhow::Result<Options> {
    let line = |at: usize| 1 + text[..at.min(text.len())].matches('\n').count();
    let table = DeTable::parse(text).map_err(|e| {
        let span = e.span().unwrap_or_default();
        let at = line(span.start);
        match text.get(span).filter(|key| is_bare(key)) {
            Some(key) => anyhow!("{}:{at}: {key}: {}", path.display(), e.message()),
            None => anyhow!("{}:{at}: {}", path.display(), e.message()),
        }
    })?;
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut options = Options::new();
    for (key, value) in entries {
        let name: &str = key.get_ref();
        let parsed =
            argument(command, name).and_then(|arg| arguments(command, arg, value.get_ref()));
        let line = line(value.span().start);
        let arguments = parsed.with_context(|| format!("{}:{line}: {name}", path.display()))?;
        options.insert(name.to_owned(), Given { line, arguments });
    }
    Ok(options)
}

/// Returns whether it is a key without quotes.
fn is_bare(key: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    !key.is_empty() && key.chars().all(fits)
}

fn argument<'a>(command: &'a Command, name: &str) -> anyhow::Result<&'a Arg> {
    let arg = command
        .get_arguments()
        .find(|arg| arg.get_long() == Some(name));
    match arg {
        Some(arg) if !NOT_HERE.contains(&name) => Ok(arg),
        Some(_) => bail!("it is for the command line only"),
        None => bail!("there is no such option: `ncrx --help` lists them"),
    }
}

/// Returns the arguments that say this.
fn arguments(command: &Command, arg: &Arg, value: &DeValue<'_>) -> anyhow::Result<Vec<String>> {
    let name = arg.get_long().unwrap_or_default();
    let flag = format!("--{name}");
    let arguments = match (arg.get_action(), value) {
        (ArgAction::SetTrue, DeValue::Boolean(is)) => vec![flag; usize::from(*is)],
        (ArgAction::SetTrue, _) => bail!("write true or false"),
        (ArgAction::Count, DeValue::Integer(count)) => {
            let count = count.as_str().parse().ok().filter(|count| *count <= 3);
            vec![flag; count.context("write a number up to 3")?]
        }
        (ArgAction::Count, _) => bail!("write a number up to 3"),
        (ArgAction::Append, DeValue::Array(all)) => {
            let each = all.iter().map(|value| one(name, value.get_ref()));
            each.collect::<Result<_, _>>()?
        }
        (_, DeValue::Array(_)) => bail!("write one value"),
        (_, value) => vec![one(name, value)?],
    };
    for argument in &arguments {
        // By itself it may lack others, which the file may have.
        if let Err(e) = command.clone().try_get_matches_from(["ncrx", argument]) {
            let lacks = [
                ErrorKind::MissingRequiredArgument,
                ErrorKind::ArgumentConflict,
            ];
            ensure!(lacks.contains(&e.kind()), "{}", words(&e));
        }
    }
    Ok(arguments)
}

fn one(name: &str, value: &DeValue<'_>) -> anyhow::Result<String> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        _ => bail!("write a text in quotes, or a number"),
    };
    Ok(format!("--{name}={text}"))
}

/// Returns the words of an error of options, without what is around them.
fn words(e: &clap::Error) -> String {
    let text = e.render().to_string();
    let text = text.trim_start_matches("error: ");
    let text = text.split("\n\nUsage").next().unwrap_or(text);
    let text = text.split("\n\nFor more").next().unwrap_or(text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<String>, String> {
        let options = options(&Program::command(), Path::new("f"), text);
        let options = options.map_err(|e| format!("{e:#}"))?;
        let given = options.into_values();
        Ok(given.flat_map(|given| given.arguments).collect())
    }

    #[test]
    fn a_file_has_all_that_the_command_line_has() {
        let text = "output = ['-', 'json:/x']\nkeep = 3\nno-history = true\nquiet = false\n\
                    verbose = 2\nrotate = '1M'\n";
        let wanted = [
            "--keep=3",
            "--no-history",
            "--output=-",
            "--output=json:/x",
            "--rotate=1M",
            "--verbose",
            "--verbose",
        ];
        assert_eq!(parsed(text).unwrap(), wanted);
        let command = Program::command();
        for arg in command.get_arguments() {
            let name = arg.get_long().unwrap();
            assert_eq!(
                argument(&command, name).is_ok(),
                !NOT_HERE.contains(&name),
                "{name}"
            );
        }
    }

    #[test]
    fn errors_name_the_line_and_the_key() {
        for (text, parts) in [
            ("keep = 3\nkeeep = 4", vec!["f:2: keeep", "--help"]),
            (
                "\nlisten = 'localhost'",
                vec!["f:2: listen", "localhost", "10.0.0.1:6666"],
            ),
            ("output = ['-', 'xml:a']", vec!["f:1: output", "text, json"]),
            ("rotate = ['1M']", vec!["f:1: rotate", "one value"]),
            ("no-history = 1", vec!["f:1: no-history", "true or false"]),
            ("queue = 1.5", vec!["f:1: queue"]),
            ("check = true", vec!["f:1: check", "command line"]),
            ("a = 1\nb = = 2", vec!["f:2: "]),
            ("keep = 1\n\nkeep = 2", vec!["f:3: keep: ", "duplicate"]),
            ("verbose = true", vec!["f:1: verbose", "number up to 3"]),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(
                parts.iter().all(|part| error.contains(part)),
                "{text}: {error}"
            );
        }
    }
}
