// SPDX-License-Identifier: GPL-2.0

//! Old files: `log.1` is the last one that was rotated, `log.2` the one before it, and so on; or
//! `log.1.zst`, if they are compressed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, SystemTime};

use xattr::FileExt;

use super::template::{Field, Template};
use super::{at, Place};

/// Compression takes about as long as writing did.
const LEVEL: i32 = 3;
/// The time after which nothing is written to a file with a date in its name.
const DATED: Duration = Duration::from_secs(2 * 24 * 3600);

/// The extended attribute of files that ncrx has made.
const MARK: &str = "user.ncrx";

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

/// Returns the numbers of the old files that there are, the youngest first. Of a rotation that was
/// cut short one number may be free, until the next one.
fn numbers(path: &Path) -> impl Iterator<Item = u32> + '_ {
    let is_there = |number: &u32| old(path, *number).is_some();
    (1..10_000)
        .take_while(move |number| is_there(number) || is_there(&(number + 1)))
        .filter(is_there)
}

/// Returns the names of the old files that there are, as written and compressed, the youngest
/// first.
fn both(path: &Path) -> impl Iterator<Item = [PathBuf; 2]> + '_ {
    numbers(path).map(|number| names(path, number))
}

/// Returns the old files of a file, the oldest first.
pub fn olds(path: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = numbers(path).filter_map(|n| old(path, n)).collect();
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

/// Returns an error if a name is taken by what is no file: a directory, a link that leads nowhere.
fn is_free(path: &Path) -> io::Result<()> {
    let is_taken = fs::symlink_metadata(path).is_ok();
    match is_taken && !fs::metadata(path).is_ok_and(|file| file.is_file()) {
        true => Err(io::Error::new(
            ErrorKind::AlreadyExists,
            format!(
                "{} is in the way, and not a regular file: move it away",
                path.display()
            ),
        )),
        false => Ok(()),
    }
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
    for [plain, compressed] in (1..=last).map(|number| names(path, number)) {
        is_free(&plain)?;
        is_free(&compressed)?;
        // A kill may have left a file as it was written although it is compressed.
        if plain.exists() && compressed.exists() {
            fs::remove_file(&compressed)?;
        }
    }
    if let Some(beyond) = old(path, last) {
        fs::remove_file(&beyond).map_err(|e| at(&beyond, "cannot remove", &e))?;
    }
    for number in (0..last).rev() {
        let Some(from) = old(path, number) else {
            continue;
        };
        let [plain, compressed] = names(path, number + 1);
        let is_compressed = number > 0 && from == names(path, number)[1];
        let to = if is_compressed { compressed } else { plain };
        fs::rename(from, &to).map_err(|e| at(&to, "cannot rename a file to this", &e))?;
    }
    Ok(())
}

/// Returns the name of what is compressed of an old file until all is: one for all of a file, as
/// one is compressed at a time.
fn part(path: &Path) -> PathBuf {
    let [first, _] = names(path, 1);
    PathBuf::from(format!("{}.part", first.display()))
}

/// Compresses what an earlier run has left as it was written, and removes what it has left half
/// compressed: of the files that ncrx has made.
pub fn compress_left(place: &Place) -> io::Result<()> {
    let ours = |path: &Path| is_ours(path).unwrap_or(false);
    for path in files(place)? {
        let part = part(&path);
        if ours(&part) {
            fs::remove_file(&part)?;
        }
        for [plain, _] in both(&path).filter(|[plain, _]| ours(plain)) {
            compress_one(&path, &plain)?;
        }
    }
    Ok(())
}

/// Returns the files that there are of an output, but for old ones.
fn files(place: &Place) -> io::Result<Vec<PathBuf>> {
    match place {
        Place::Stdout => Ok(Vec::new()),
        Place::File(path) => Ok(vec![path.clone()]),
        Place::PerHost(path) => Template::parse(path).map_err(io::Error::other)?.files(None),
    }
}

/// Compresses the old files of a file that are not compressed yet. Others may rename and remove
/// them meanwhile. Until one is compressed wholly it is there as it was written.
pub fn compress(path: &Path) -> io::Result<()> {
    let mut plain = both(path).map(|[plain, _]| plain);
    plain.try_for_each(|plain| match plain.exists() {
        true => compress_one(path, &plain),
        false => Ok(()),
    })
}

fn compress_one(path: &Path, plain: &Path) -> io::Result<()> {
    let part = part(path);
    let done = || {
        let from = match File::open(plain) {
            // It has got another name: its turn comes when that is looked at.
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let meta = from.metadata()?;
        let file = File::create(&part)?;
        if from.get_xattr(MARK).is_ok_and(|mark| mark.is_some()) {
            mark(&file);
        }
        let mut to = zstd::Encoder::new(file, LEVEL)?;
        io::copy(&mut BufReader::with_capacity(1 << 20, &from), &mut to)?;
        let file = to.finish()?;
        file.set_modified(meta.modified()?)?;
        // The one that is removed may have been forced to the disk.
        file.sync_all()?;
        let _names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        let id = |meta: &fs::Metadata| (meta.dev(), meta.ino());
        let is_it = |plain: &PathBuf| fs::metadata(plain).is_ok_and(|of| id(&of) == id(&meta));
        match both(path).find(|[plain, _]| is_it(plain)) {
            Some([plain, compressed]) => {
                fs::rename(&part, &compressed)?;
                fs::remove_file(&plain)
            }
            None => fs::remove_file(&part),
        }
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

/// Removes the oldest of what is too much or too old, of the files that ncrx has made: others may
/// have names like theirs. `release` is asked before, and closes the file of a path if it can be
/// closed. A file that cannot be removed is left alone; the first error is returned.
pub fn tidy(
    place: &Place,
    bounds: &Bounds,
    now: SystemTime,
    release: impl Fn(&Path) -> bool,
) -> io::Result<()> {
    let age = |time: SystemTime| now.duration_since(time).unwrap_or_default();
    let all = candidates(place, age)?;
    let mut size: u64 = all.iter().map(|(_, _, size)| size).sum();
    let mut result = Ok(());
    for (time, path, length) in all {
        let too_old = bounds.age.is_some_and(|most| age(time) > most);
        if !too_old && bounds.size.is_none_or(|most| size <= most) {
            break;
        }
        let _names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        // Its name may be another file's by now.
        let same = own(&path).is_some_and(|(now, _)| now == time);
        if same && release(&path) {
            if let Err(e) = fs::remove_file(&path) {
                result = result.and(Err(at(&path, "cannot remove", &e)));
                continue;
            }
        }
        size -= length;
    }
    result
}

/// Returns the old files of an output that ncrx has made, the oldest first: when each was last
/// written, its path and its length.
fn candidates(
    place: &Place,
    age: impl Fn(SystemTime) -> Duration,
) -> io::Result<BTreeSet<(SystemTime, PathBuf, u64)>> {
    let template = match place {
        Place::PerHost(path) => Some(Template::parse(path).map_err(io::Error::other)?),
        _ => None,
    };
    let mut fields = template.iter().flat_map(Template::fields);
    let dated = fields.any(|field| *field == Field::Date);
    let over = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
    let mut paths = BTreeSet::new();
    for file in files(place)? {
        paths.extend(olds(&file));
        if dated && over(&file).is_ok_and(|time| age(time) > DATED) {
            paths.insert(file);
        }
    }
    let row = |path: PathBuf| own(&path).map(|(time, length)| (time, path, length));
    Ok(paths.into_iter().filter_map(row).collect())
}

/// Marks a file as one that ncrx has made.
pub fn mark(file: &File) {
    if let Err(e) = file.set_xattr(MARK, b"1") {
        // Without it the file is never removed: that is said when it would be.
        tracing::debug!("a file is not marked: {e}");
    }
}

/// Returns whether ncrx has made a file.
fn is_ours(path: &Path) -> io::Result<bool> {
    xattr::get(path, MARK).map(|mark| mark.is_some())
}

/// Returns when a regular file that ncrx has made was last written, and its length.
fn own(path: &Path) -> Option<(SystemTime, u64)> {
    static SAID: Once = Once::new();
    let file = fs::symlink_metadata(path).ok()?;
    if !file.is_file() {
        return None;
    }
    match is_ours(path) {
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            SAID.call_once(|| {
                tracing::warn!(
                    "{}: its file system keeps no extended attributes (`{MARK}`), by which ncrx \
                     knows its own files. Nothing is removed there: use --rotate with --keep, or \
                     write to another file system",
                    path.display()
                );
            });
            None
        }
        ours => ours.ok()?.then_some((file.modified().ok()?, file.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str, age: u64, now: SystemTime) {
        fs::write(path, text).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        mark(&file);
        file.set_modified(now - Duration::from_secs(age)).unwrap();
    }

    #[test]
    fn compressed_files_take_their_turn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for text in ["one", "two", "three", "four"] {
            fs::write(&path, text).unwrap();
            shift(&path, 3).unwrap();
            if text == "two" {
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
        assert_eq!(names.collect::<Vec<_>>(), ["log.3.zst", "log.2", "log.1"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    /// The program was killed when the compressed file was there and the other not yet removed, and
    /// when it was half written.
    #[test]
    fn what_a_kill_has_left_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let at = |ending: &str| dir.path().join(format!("log{ending}"));
        fs::write(at(".1"), "one").unwrap();
        fs::write(at(".1.zst"), "compressed").unwrap();
        fs::write(at(".1.part"), "half").unwrap();
        assert_eq!(olds(&path), [at(".1")]);
        fs::write(&path, "two").unwrap();
        shift(&path, 5).unwrap();
        assert_eq!(olds(&path), [at(".2"), at(".1")]);
        compress(&path).unwrap();
        assert_eq!(olds(&path), [at(".2.zst"), at(".1.zst")]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    /// A rotation is killed between any two renames.
    #[test]
    fn what_a_rotation_that_was_cut_short_has_left_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for free in 1..=4 {
            let all = (1..=4)
                .filter(|n| *n != free)
                .map(|n| names(&path, n)[0].clone());
            let all: Vec<_> = all.collect();
            all.iter().for_each(|file| fs::write(file, "old").unwrap());
            let found: Vec<_> = olds(&path).into_iter().rev().collect();
            assert_eq!(found, all);
            all.iter().for_each(|file| fs::remove_file(file).unwrap());
        }
    }

    /// The program has ended while it compressed `log.2`, and is started anew.
    #[test]
    fn what_was_left_is_compressed_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let now = SystemTime::now();
        for name in ["web.log", "web.log.1", "web.log.2", "web.log.1.part"] {
            write(&at(name), name, 0, now);
        }
        for name in ["dpkg.log", "dpkg.log.1", "dpkg.log.1.part"] {
            fs::write(at(name), "another's").unwrap();
        }
        let place = Place::PerHost(format!("{}/{{host}}.log", dir.path().display()));
        compress_left(&place).unwrap();
        let names = fs::read_dir(dir.path()).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        let theirs = ["dpkg.log", "dpkg.log.1", "dpkg.log.1.part"];
        let ours = ["web.log", "web.log.1.zst", "web.log.2.zst"];
        assert_eq!(names, [theirs, ours].concat());
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
            tidy(&place, &Bounds { size, age }, now, |_| true).unwrap();
            fs::read_dir(dir.path()).unwrap().count()
        };
        assert_eq!(left(Some(60), Some(400)), 8);
        assert_eq!(left(Some(45), None), 6);
        assert!(!dir.path().join("a.log.3").exists() && !dir.path().join("b.log.3").exists());
        assert_eq!(left(None, Some(200)), 5);
        // The file that is being written to stays.
        assert_eq!(left(Some(0), Some(0)), 2);
    }

    /// Files of others and links with names like ours, and directories, are left alone.
    #[test]
    fn only_our_own_files_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let now = SystemTime::now();
        for name in ["web.log.1", "web.log.2", "web.log"] {
            write(&at(name), "ours", 1000, now);
        }
        compress(&at("web.log")).unwrap();
        for name in ["dpkg.log", "dpkg.log.1", "auth.log", "precious"] {
            fs::write(at(name), "another's").unwrap();
        }
        write(&at("linked"), "ours", 1000, now);
        std::os::unix::fs::symlink(at("linked"), at("auth.log.1")).unwrap();
        fs::create_dir(at("dir.log")).unwrap();
        fs::create_dir(at("dir.log.1")).unwrap();
        let place = Place::PerHost(format!("{}/{{host}}.log", dir.path().display()));
        let (size, age) = (Some(0), Some(Duration::from_secs(1)));
        tidy(&place, &Bounds { size, age }, now, |_| true).unwrap();
        let names = fs::read_dir(dir.path()).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(
            names,
            [
                "auth.log",
                "auth.log.1",
                "dir.log",
                "dir.log.1",
                "dpkg.log",
                "dpkg.log.1",
                "linked",
                "precious",
                "web.log",
            ]
        );
    }

    #[test]
    fn no_file_is_counted_twice() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        for (n, name) in ["a", "a.1", "a.2"].iter().enumerate() {
            write(&dir.path().join(name), "0123456789", n as u64 * 100, now);
        }
        // Each is a file of some host, too.
        let place = Place::PerHost(format!("{}/{{host}}", dir.path().display()));
        let (size, age) = (Some(20), None);
        tidy(&place, &Bounds { size, age }, now, |_| true).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn what_cannot_be_closed_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let path = dir.path().join("2026-01-01");
        write(&path, "old", 3 * 24 * 3600, now);
        let place = Place::PerHost(format!("{}/{{date}}", dir.path().display()));
        let (size, age) = (Some(0), None);
        tidy(&place, &Bounds { size, age }, now, |_| false).unwrap();
        assert!(path.exists());
        tidy(&place, &Bounds { size, age }, now, |of| of == path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_is_in_the_way_is_named_and_stays() {
        for is_link in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let (path, first) = (dir.path().join("log"), dir.path().join("log.1"));
            let way = dir.path().join("log.2");
            fs::write(&path, "now").unwrap();
            fs::write(&first, "before").unwrap();
            match is_link {
                true => std::os::unix::fs::symlink("/no/such/file", &way).unwrap(),
                false => fs::create_dir(&way).unwrap(),
            }
            let error = shift(&path, 3).unwrap_err().to_string();
            assert!(error.contains(&way.display().to_string()), "{error}");
            assert!(error.contains("move it away"), "{error}");
            assert!(fs::symlink_metadata(&way).is_ok_and(|way| !way.is_file()));
            assert_eq!(fs::read_to_string(&path).unwrap(), "now");
            assert_eq!(fs::read_to_string(&first).unwrap(), "before");
        }
    }
}
