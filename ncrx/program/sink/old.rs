// SPDX-License-Identifier: GPL-2.0

//! Old files: `log.1` is the last one that was rotated, `log.2` the one before it, and so on; or
//! `log.1.zst`, if they are compressed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::template::{Field, Template};
use super::Place;

/// Compression takes about as long as writing did.
const LEVEL: i32 = 3;
/// The time after which nothing is written to a file with a date in its name.
const DATED: Duration = Duration::from_secs(2 * 24 * 3600);

/// Held while files are renamed or removed: a name is to mean the same file for as long.
static NAMES: Mutex<()> = Mutex::new(());

/// Returns the path of an old file: as it was written, and compressed.
fn names(path: &Path, number: u32) -> [PathBuf; 2] {
    let name = |ending: &str| {
        let mut name = OsString::from(path);
        if number > 0 {
            name.push(format!(".{number}{ending}"));
        }
        name.into()
    };
    [name(""), name(".zst")]
}

/// Returns an old file that is there.
fn old(path: &Path, number: u32) -> Option<PathBuf> {
    names(path, number).into_iter().find(|name| name.exists())
}

/// Returns the old files of a file, the oldest first.
pub fn olds(path: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = (1..10_000).map_while(|number| old(path, number)).collect();
    all.reverse();
    all
}

/// Returns a file with its old ones, the oldest first.
pub fn with_rotated(path: &Path) -> Vec<PathBuf> {
    let mut all = olds(path);
    if path.exists() {
        all.push(path.into());
    }
    all
}

/// Opens a file for reading, compressed or not.
pub fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    let file = File::open(path)?;
    Ok(
        match path.extension().is_some_and(|ending| ending == "zst") {
            true => Box::new(zstd::Decoder::new(file)?),
            false => Box::new(file),
        },
    )
}

/// Renames the file to `.1`, an older `.1` to `.2`, ...
pub fn shift(path: &Path, keep: u32) -> io::Result<()> {
    let _names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    // Only up to the first number that is free: if an earlier attempt got stuck in the middle then
    // nothing is to move twice.
    let last = (1..=keep).find(|&n| old(path, n).is_none()).unwrap_or(keep);
    if last == 0 {
        return fs::remove_file(path);
    }
    if let Some(beyond) = old(path, last) {
        fs::remove_file(beyond)?;
    }
    for number in (0..last).rev() {
        let Some(from) = old(path, number) else {
            continue;
        };
        let [plain, compressed] = names(path, number + 1);
        let is_compressed = number > 0 && from == names(path, number)[1];
        fs::rename(from, if is_compressed { compressed } else { plain })?;
    }
    Ok(())
}

/// Compresses the file that was rotated last.
pub fn compress(path: &Path) -> io::Result<()> {
    let [plain, compressed] = names(path, 1);
    let part = plain.with_extension("1.part");
    let done = || {
        let mut from = BufReader::with_capacity(1 << 20, File::open(&plain)?);
        let mut to = zstd::Encoder::new(File::create(&part)?, LEVEL)?;
        io::copy(&mut from, &mut to)?;
        let file = to.finish()?;
        file.set_modified(fs::metadata(&plain)?.modified()?)?;
        // The one that is removed may have been forced to the disk.
        file.sync_all()?;
        fs::rename(&part, &compressed)?;
        fs::remove_file(&plain)
    };
    done().inspect_err(|_| drop(fs::remove_file(&part)))
}

/// How much of old files is kept, of one output.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes, of all together.
    pub size: Option<u64>,
    /// The time since they were written.
    pub age: Option<Duration>,
}

/// Removes the oldest of what is too much or too old.
pub fn tidy(place: &Place, bounds: &Bounds, now: SystemTime) -> io::Result<()> {
    let (files, dated) = match place {
        Place::Stdout => return Ok(()),
        Place::File(path) => (vec![path.clone()], false),
        Place::PerHost(path) => {
            let template = Template::parse(path).map_err(io::Error::other)?;
            let dated = template.fields().any(|field| *field == Field::Date);
            (template.files(None)?, dated)
        }
    };
    let age = |time: SystemTime| now.duration_since(time).unwrap_or_default();
    let mut all = Vec::new();
    for file in &files {
        let over = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
        let itself = dated && over(file).is_ok_and(|time| age(time) > DATED);
        for path in olds(file).into_iter().chain(itself.then(|| file.clone())) {
            if let Ok(file) = fs::metadata(&path) {
                all.push((file.modified()?, path, file.len()));
            }
        }
    }
    all.sort();
    let mut size: u64 = all.iter().map(|(_, _, size)| size).sum();
    for (time, path, length) in all {
        let too_old = bounds.age.is_some_and(|most| age(time) > most);
        if !too_old && bounds.size.is_none_or(|most| size <= most) {
            break;
        }
        let _names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        // Its name may be another file's by now.
        if fs::metadata(&path).is_ok_and(|file| file.modified().is_ok_and(|now| now == time)) {
            fs::remove_file(&path)?;
        }
        size -= length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str, age: u64, now: SystemTime) {
        fs::write(path, text).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(now - Duration::from_secs(age)).unwrap();
    }

    #[test]
    fn compressed_files_take_their_turn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for text in ["one", "two", "three", "four"] {
            fs::write(&path, text).unwrap();
            shift(&path, 3).unwrap();
            if text != "three" {
                compress(&path).unwrap();
            }
        }
        let read = |path: &PathBuf| {
            let mut text = String::new();
            open(path).unwrap().read_to_string(&mut text).unwrap();
            text
        };
        let texts: Vec<_> = olds(&path).iter().map(read).collect();
        assert_eq!(texts, ["two", "three", "four"]);
        let names: Vec<_> = olds(&path).into_iter().collect();
        let names = names
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap());
        assert_eq!(
            names.collect::<Vec<_>>(),
            ["log.3.zst", "log.2", "log.1.zst"]
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn the_oldest_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        for host in ["a", "b"] {
            let path = dir.path().join(format!("{host}.log"));
            write(&path, "now", 9_999_999, now);
            for n in 1..=3 {
                let age = n * 100 + u64::from(host == "b");
                write(
                    &dir.path().join(format!("{host}.log.{n}")),
                    "0123456789",
                    age,
                    now,
                );
            }
        }
        let place = Place::PerHost(format!("{}/{{host}}.log", dir.path().display()));
        let left = |size, age: Option<u64>| {
            let age = age.map(Duration::from_secs);
            tidy(&place, &Bounds { size, age }, now).unwrap();
            fs::read_dir(dir.path()).unwrap().count()
        };
        assert_eq!(left(Some(60), Some(400)), 8);
        assert_eq!(left(Some(45), None), 6);
        assert!(!dir.path().join("a.log.3").exists() && !dir.path().join("b.log.3").exists());
        assert_eq!(left(None, Some(200)), 5);
        // What is being written to stays.
        assert_eq!(left(Some(0), Some(0)), 2);
    }
}
