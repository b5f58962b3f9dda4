// SPDX-License-Identifier: GPL-2.0

//! The files that the receiver writes, as the index remembers them: with their rotated ones, and
//! how they grow.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context};
use clap::Args;
use nix::sys::resource::{getrlimit, setrlimit, Resource};

use super::At;
use crate::index::Reader;
use crate::reader::Entry;
pub use crate::sink::with_rotated;
use crate::sink::{open, Template};

/// The longest line that is read, in bytes: the rest of a longer one is passed over.
const LONGEST: u64 = 1 << 20;

/// The files to read.
#[derive(Debug, Args)]
pub struct From {
    #[command(flatten)]
    at: At,
    /// Read these files instead of those that the receiver has told the index of; text or JSON,
    /// rotated ones are found beside them.
    #[arg(long, value_name = "FILE")]
    from: Vec<PathBuf>,
}

/// Files of one output.
pub enum Files {
    /// These.
    These(Vec<PathBuf>),
    /// Those for each host.
    PerHost(Template),
}

impl From {
    /// Returns the files of the output that suits best: one of JSON if levels are needed, as text
    /// has none, else one of text.
    pub fn files(&self, levels: bool) -> anyhow::Result<Files> {
        if !self.from.is_empty() {
            return Ok(Files::These(self.from.clone()));
        }
        let reader = Reader::open(&self.at.index)
            .context("cannot find out where the files are: name them with --from FILE")?;
        let outputs = reader.outputs().context("cannot read the index")?;
        let template = |place: &str| {
            let template = Template::parse(place).ok();
            template.filter(|template| template.fields().next().is_some())
        };
        let rank = |(place, format): &&(String, String)| match (format.as_str(), levels) {
            ("json", true) | ("text", false) => Some(u8::from(template(place).is_none())),
            ("json", false) => Some(2),
            _ => None,
        };
        let best = outputs
            .iter()
            .filter(|output| rank(output).is_some())
            .min_by_key(rank);
        match best {
            Some((place, _)) => Ok(match template(place) {
                Some(template) => Files::PerHost(template),
                None => Files::These(vec![place.into()]),
            }),
            None if levels => {
                bail!("--level needs an --output json:FILE of the receiver: text has no levels")
            }
            None => {
                bail!("the receiver writes no file of text or JSON: name others with --from FILE")
            }
        }
    }
}

impl Files {
    /// Returns the files that have what this host has logged, or all hosts.
    pub fn paths(&self, host: Option<&str>) -> io::Result<Vec<PathBuf>> {
        match self {
            Self::These(paths) => Ok(paths.clone()),
            Self::PerHost(template) => template.files(host),
        }
    }
}

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot read it: {why}", .path.display())]
pub struct Unreadable {
    path: PathBuf,
    why: io::Error,
}

/// Reads the lines of a file; calls `each` with all that can be taken apart, until it says that it
/// has enough. An error is [`Unreadable`], or one of `each`.
pub fn read(
    path: &Path,
    mut each: impl FnMut(Entry) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let unreadable = |why| Unreadable {
        path: path.into(),
        why,
    };
    let file = open(path).map_err(unreadable)?;
    let mut lines = BufReader::with_capacity(128 << 10, file);
    let mut line = Vec::new();
    while next(&mut lines, &mut line).map_err(unreadable)? > 0 {
        let text = String::from_utf8_lossy(&line);
        let entry = Entry::parse(text.trim_end_matches('\n'));
        if let Some(entry) = entry {
            if !each(entry)? {
                break;
            }
        }
    }
    Ok(())
}

/// Reads these files, as [`read`] does, with what cannot be read left out; returns the errors.
pub fn read_all(
    files: &[PathBuf],
    mut each: impl FnMut(Entry) -> anyhow::Result<bool>,
) -> anyhow::Result<Vec<Unreadable>> {
    let mut errors = Vec::new();
    for path in files {
        if let Err(e) = read(path, &mut each) {
            errors.push(e.downcast::<Unreadable>()?);
        }
    }
    Ok(errors)
}

/// Reads a line, of which only so much is kept; returns the bytes that it has.
fn next(from: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    line.clear();
    let mut all = from.take(LONGEST).read_until(b'\n', line)? as u64;
    let mut rest = Vec::new();
    while all >= LONGEST && line.last() != Some(&b'\n') && rest.last() != Some(&b'\n') {
        rest.clear();
        let more = from.take(LONGEST).read_until(b'\n', &mut rest)? as u64;
        if more == 0 {
            break;
        }
        all += more;
    }
    Ok(all)
}

/// A file that grows. It stays open, so that it can be read to its end whatever it is called by
/// then, and if it is compressed meanwhile.
struct Growing {
    file: File,
    /// Its device and inode.
    id: (u64, u64),
    /// How far it was read.
    at: u64,
    /// Whether it has no name any more.
    removed: bool,
}

impl Growing {
    /// Opens a file, to be read from its start; [`None`] if there is none.
    fn open(path: &Path) -> anyhow::Result<Option<Self>> {
        let file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.with_context(|| format!("{}: cannot open it", path.display()))?,
        };
        let meta = file.metadata()?;
        Ok((!meta.is_dir()).then_some(Self {
            file,
            id: id(&meta),
            at: 0,
            removed: false,
        }))
    }

    /// Reads what has come since it was read last, in whole lines.
    fn read(&mut self, each: &mut impl FnMut(Entry) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let meta = self.file.metadata()?;
        self.removed = meta.nlink() == 0;
        if meta.len() < self.at {
            self.at = 0;
        }
        if meta.len() == self.at {
            return Ok(());
        }
        self.file.seek(SeekFrom::Start(self.at))?;
        let mut lines = BufReader::new(&self.file);
        let mut line = Vec::new();
        loop {
            let length = next(&mut lines, &mut line)?;
            let whole = length >= LONGEST || line.last() == Some(&b'\n');
            if length == 0 || !whole {
                return Ok(());
            }
            self.at += length;
            let text = String::from_utf8_lossy(&line);
            if let Some(entry) = Entry::parse(text.trim_end_matches('\n')) {
                each(entry)?;
            }
        }
    }
}

fn id(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// Files as they grow.
#[derive(Default)]
pub struct Follower {
    known: BTreeMap<PathBuf, Growing>,
}

impl Follower {
    /// Takes note that these are read up to here.
    pub fn skip(&mut self, paths: &[PathBuf]) -> anyhow::Result<()> {
        // There may be one for each of many hosts.
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
        for path in paths {
            if let Some(mut file) = Growing::open(path)? {
                file.at = file.file.metadata()?.len();
                self.known.insert(path.clone(), file);
            }
        }
        Ok(())
    }

    /// Reads what has come in these files since the last call, in whole lines.
    pub fn poll(
        &mut self,
        paths: &[PathBuf],
        each: &mut impl FnMut(Entry) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for (path, file) in &mut self.known {
            file.read(each)
                .with_context(|| path.display().to_string())?;
        }
        self.known.retain(|_, file| !file.removed);
        for path in paths {
            let Ok(meta) = fs::metadata(path) else {
                continue;
            };
            match self.known.get_mut(path) {
                Some(file) if file.id == id(&meta) => continue,
                // It was rotated: what came before that is in the old one.
                Some(file) => file.read(each)?,
                None => {}
            }
            if let Some(mut file) = Growing::open(path)? {
                file.read(each)?;
                self.known.insert(path.clone(), file);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_named_and_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let good = dir.path().join("a.log");
        fs::write(&good, "a (plain) 0\n").unwrap();
        let (gone, none) = (dir.path().to_path_buf(), dir.path().join("gone.log"));
        let mut seen = 0;
        let mut each = |_| {
            seen += 1;
            Ok(true)
        };
        let errors = read_all(&[gone, none, good.clone()], &mut each).unwrap();
        assert_eq!((errors.len(), seen), (2, 1));
        let shown = dir.path().display().to_string();
        assert!(errors[0].to_string().starts_with(&shown), "{}", errors[0]);
        assert!(errors[1].to_string().contains("gone.log"), "{}", errors[1]);
        // Not so an error of who reads them.
        let failed = read_all(&[good], |_| anyhow::bail!("closed"));
        assert_eq!(failed.unwrap_err().to_string(), "closed");
    }

    #[test]
    fn a_file_is_followed_over_its_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let paths = [path.clone()];
        let mut seen = Vec::new();
        let mut follower = Follower::default();
        fs::write(&path, "a (plain) 0\n").unwrap();
        follower.skip(&paths).unwrap();
        let mut poll = |follower: &mut Follower| {
            let mut new = Vec::new();
            let mut each = |entry: Entry| {
                new.push(entry.text);
                Ok(())
            };
            follower.poll(&paths, &mut each).unwrap();
            seen.extend(new.clone());
            new
        };
        assert!(poll(&mut follower).is_empty());
        // A line that is not whole yet is waited for.
        fs::write(&path, "a (plain) 0\na (plain) 1\na (pla").unwrap();
        assert_eq!(poll(&mut follower), ["1"]);
        fs::write(
            &path,
            "a (plain) 0\na (plain) 1\na (plain) 2\na (plain) 3\n",
        )
        .unwrap();
        fs::rename(&path, dir.path().join("a.log.1")).unwrap();
        fs::write(&path, "a (plain) 4\n").unwrap();
        assert_eq!(poll(&mut follower), ["2", "3", "4"]);
        // The old one is compressed at once, which removes it.
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"a (plain) 5\n").unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a (plain) 6\n").unwrap();
        assert_eq!(poll(&mut follower), ["5", "6"]);
        fs::remove_file(&path).unwrap();
        assert!(poll(&mut follower).is_empty());
        assert!(follower.known.is_empty());
    }

    #[test]
    fn hosts_files_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.log", "b.log", "b.log.1", "b.log.2", "c.txt", ".log"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let template = format!("{}/{{host}}.log", dir.path().display());
        let template = Template::parse(&template).unwrap();
        let names = |paths: Vec<PathBuf>| -> Vec<_> {
            let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
            paths.into_iter().map(name).collect()
        };
        let files = Files::PerHost(template);
        assert_eq!(names(files.paths(None).unwrap()), ["a.log", "b.log"]);
        let b = files.paths(Some("b")).unwrap();
        assert_eq!(names(with_rotated(&b[0])), ["b.log.2", "b.log.1", "b.log"]);
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let long = vec![b'x'; 3 << 20];
        let mut from = BufReader::new(&long[..]);
        let mut line = Vec::new();
        assert_eq!(next(&mut from, &mut line).unwrap(), 3 << 20);
        assert_eq!(line.len(), 1 << 20);
        assert_eq!(next(&mut from, &mut line).unwrap(), 0);
    }
}
