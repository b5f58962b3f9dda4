// SPDX-License-Identifier: GPL-2.0

//! Set-up: sockets, outputs and settings from the options. What cannot work is refused here, by
//! name and with the remedy.

use std::io::{self, IsTerminal};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{bail, Context};
use bytesize::ByteSize;
use foldhash::HashSet;
use ncrx::Config;

use crate::allow::Allow;
use crate::choices::{Choices, Look};
use crate::clashes::{can_meet, ends_in_a_choice};
use crate::cli::{self, Cli, Output};
use crate::crashes::Hub;
use crate::expect::Expect;
use crate::format::{Format, Style};
use crate::hook;
use crate::http;
use crate::index::{self, Index};
use crate::names::{Given, Names};
use crate::sink::{
    self, Bounds, Compressor, Ending, Fsync, Opening, Place, Policy, Pool, Sink, HOST,
};
use crate::socket::Socket;
use crate::state::State;

/// The most outputs: each is a bit.
const OUTPUTS: usize = 64;

/// The least memory for a thread: more than the longest datagram.
const MEMORY: u64 = 1 << 18;

/// The time from one look at old files to the next.
const TIDY: Duration = Duration::from_secs(30);

/// The files that may change, and that SIGHUP has read again.
#[derive(Clone)]
pub struct Files {
    /// The names of senders.
    pub names: Arc<Names>,
    /// The senders that may write.
    pub allow: Arc<Allow>,
    /// The hosts that should be heard.
    pub expect: Option<Arc<Expect>>,
    /// The outputs' places that host names must suit.
    places: Arc<Mutex<Vec<Place>>>,
}

impl Files {
    /// Reads all of them.
    pub fn read(cli: &Cli) -> anyhow::Result<Self> {
        let reading =
            |option: &str, path: &Path| format!("cannot read {option} {}", path.display());
        let names = Names::new(cli.host_names.as_deref())
            .with_context(|| reading("--host-names", named(&cli.host_names)))?;
        let allow = Allow::new(cli.allow.clone(), cli.allow_file.as_deref())
            .with_context(|| reading("--allow-file", named(&cli.allow_file)))?;
        let expect = match &cli.expect {
            Some(path) => {
                let expect = Expect::new(path, cli.expect_after, &names.given());
                Some(Arc::new(expect.with_context(|| reading("--expect", path))?))
            }
            None => None,
        };
        let places = named_places(cli)?;
        suit(&names.given(), &places)?;
        Ok(Self {
            names: Arc::new(names),
            allow: Arc::new(allow),
            expect,
            places: Arc::new(Mutex::new(places)),
        })
    }

    /// Takes what other options say of them, or nothing if that cannot be.
    pub fn set(&self, cli: &Cli) -> anyhow::Result<()> {
        let places = named_places(cli)?;
        suit(&self.names.given(), &places)?;
        *self.places.lock().unwrap_or_else(PoisonError::into_inner) = places;
        Ok(())
    }

    /// Reads them again; what cannot be read stays as it was.
    pub fn reload(&self) {
        let places = self
            .places
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let suits = |given: &Given| suit(given, &places).map_err(io::Error::other);
        let say = |option: &str, result: io::Result<()>| {
            if let Err(e) = result {
                tracing::error!("cannot read {option} again: {e}. It stays as it was");
            }
        };
        say("--host-names", self.names.reload(suits));
        say("--allow-file", self.allow.reload());
        if let Some(expect) = &self.expect {
            say("--expect", expect.reload(&self.names.given()));
        }
    }
}

/// Returns the places of outputs that host names must suit.
fn named_places(cli: &Cli) -> anyhow::Result<Vec<Place>> {
    let outputs = match has_old_files(cli) {
        true => outputs(cli)?,
        false => Vec::new(),
    };
    Ok(outputs
        .into_iter()
        .map(|(output, _)| output.place)
        .collect())
}

fn named(path: &Option<PathBuf>) -> &Path {
    path.as_deref().unwrap_or(Path::new(""))
}

/// Checks that the options suit each other.
pub fn suits(cli: &Cli) -> anyhow::Result<()> {
    let threads = u64::from(cli.workers) * listen(cli)?.len() as u64;
    let least = ByteSize(threads * MEMORY);
    if cli.memory < least.as_u64() {
        bail!(
            "--memory {} is too little for {threads} threads: they need {least} at least",
            ByteSize(cli.memory)
        );
    }
    outputs(cli).map(drop)
}

/// Returns all outputs, and whether each is an `--output`; no two may come to the same file.
pub fn outputs(cli: &Cli) -> anyhow::Result<Vec<(Output, bool)>> {
    let promised = cli.output.iter().map(|output| (output.clone(), true));
    let others = cli.best_effort.iter().map(|output| (output.clone(), false));
    let mut all: Vec<_> = promised.chain(others).collect();
    if all.is_empty() {
        let output = Output {
            format: None,
            level: None,
            place: Place::Stdout,
        };
        all.push((output, true));
    }
    if all.len() > OUTPUTS {
        bail!(
            "there are {} outputs, but at most {OUTPUTS} may be",
            all.len()
        );
    }
    for (nth, (one, _)) in all.iter().enumerate() {
        suits_alone(cli, &one.place)?;
        if is_raw_on_terminal(format(cli, one), &one.place, io::stdout().is_terminal()) {
            bail!(
                "the format export has what senders send as it is, which is not for a terminal: \
                 use --output export:FILE, or a pipe"
            );
        }
        for (other, _) in &all[..nth] {
            let (a, b) = (resolved(&one.place), resolved(&other.place));
            if a == b {
                bail!("two outputs are {}: give each its own file", one.place);
            }
            if can_meet(&a, &b, cli.host_key.is_some()) {
                bail!(
                    "{} and {} come to the same file for some host: give one another name",
                    other.place,
                    one.place
                );
            }
            if cli.rotate.is_some() && (is_old(&a, &b) || is_old(&b, &a)) {
                bail!(
                    "with --rotate {} and {} come to the same file: give one another name",
                    one.place,
                    other.place
                );
            }
        }
    }
    Ok(all)
}

/// Returns whether files may have old ones.
fn has_old_files(cli: &Cli) -> bool {
    cli.rotate.is_some() || cli.keep_size.is_some() || cli.keep_age.is_some()
}

/// Checks that no sender can have a file of this place be another's old one, or one of ours.
fn suits_alone(cli: &Cli, place: &Place) -> anyhow::Result<()> {
    let Place::PerHost(path) = place else {
        return Ok(());
    };
    let named = cli.host_key.is_some();
    if has_old_files(cli) && ends_in_a_choice(path, named) {
        bail!(
            "with --rotate, --keep-size or --keep-age a sender can call itself so that its file is \
             an old one of another (web.1): write {path}.log"
        );
    }
    let ours = |option, directory: &Option<PathBuf>, names: &[&str]| {
        let files = directory.iter().flat_map(|directory| {
            let file = |name: &&str| directory.join(name);
            names.iter().map(file).collect::<Vec<_>>()
        });
        files.map(move |file| (option, file)).collect::<Vec<_>>()
    };
    let state = ours(
        "--state",
        &cli.state,
        &["lock", "merged.json", "worker-0.json"],
    );
    let index = cli.index.iter().map(|at| ("--index", index::file(at)));
    for (option, file) in state.into_iter().chain(index) {
        let at = resolved(&Place::File(file.clone()));
        if can_meet(&resolved(place), &at, named) {
            bail!(
                "a file of {path} can be {}, which is that of {option}: give {option} a directory \
                 of its own",
                file.display()
            );
        }
    }
    Ok(())
}

/// Returns whether bytes of senders would reach a terminal unescaped.
fn is_raw_on_terminal(format: Format, place: &Place, terminal: bool) -> bool {
    terminal && format == Format::Export && *place == Place::Stdout
}

/// Returns the path of a place, one and the same however it is written.
fn resolved(place: &Place) -> String {
    let path = match place {
        Place::Stdout => return "-".into(),
        Place::File(path) => path.as_path(),
        Place::PerHost(template) => Path::new(template),
    };
    if let Ok(path) = path.canonicalize() {
        // It is there, maybe by a link.
        return path.display().to_string();
    }
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    let directory = directory.canonicalize().unwrap_or_else(|_| {
        // It is not there yet.
        std::path::absolute(directory).unwrap_or(directory.into())
    });
    let name = path.file_name().unwrap_or_default();
    directory.join(name).display().to_string()
}

/// Returns whether a file's rotation makes a file of this name.
fn is_old(old: &str, file: &str) -> bool {
    let number = as_written(old)
        .strip_prefix(file)
        .and_then(|rest| rest.strip_prefix('.'));
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Returns the name of a file before its compression, which may not have ended.
fn as_written(name: &str) -> &str {
    let endings = [".zst", ".part"].iter();
    let plain = endings
        .filter_map(|ending| name.strip_suffix(ending))
        .next();
    plain.unwrap_or(name)
}

/// Checks that no two hosts' files come to the same when they are rotated.
fn suit(given: &Given, places: &[Place]) -> anyhow::Result<()> {
    let ends = |place: &Place| matches!(place, Place::PerHost(path) if path.ends_with(HOST));
    let Some(place) = places.iter().find(|place| ends(place)) else {
        return Ok(());
    };
    let names: HashSet<&str> = given.names().collect();
    for name in &names {
        let Some((stem, number)) = as_written(name).rsplit_once('.') else {
            continue;
        };
        let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
        let collides = names.contains(stem) || is_address(stem);
        let hidden = (0..=9).any(|n| is_address(&format!("{name}.{n}")));
        if (number.parse::<u32>().is_ok() && collides) || hidden {
            bail!(
                "with --rotate, --keep-size or --keep-age the files of a host that is called `{name}` and those of another come \
                 to the same: write {place}.log"
            );
        }
    }
    Ok(())
}

/// Returns all addresses to listen at; none twice.
fn listen(cli: &Cli) -> anyhow::Result<Vec<SocketAddr>> {
    if cli.listen.is_empty() {
        return Ok(vec![(Ipv6Addr::UNSPECIFIED, cli::PORT).into()]);
    }
    for (nth, at) in cli.listen.iter().enumerate() {
        if at.port() != 0 && cli.listen[..nth].contains(at) {
            bail!("--listen {at} is given twice: --workers has it served by several threads");
        }
    }
    Ok(cli.listen.clone())
}

/// The error of an address that cannot be listened at.
fn refusal(at: SocketAddr, e: &io::Error) -> anyhow::Error {
    let remedy = match e.kind() {
        io::ErrorKind::AddrInUse => ": `ss -ulpn` tells whose it is; try another --listen",
        io::ErrorKind::AddrNotAvailable => {
            ": this machine does not have it; `ip address` shows what it has"
        }
        io::ErrorKind::PermissionDenied => ": ports below 1024 need CAP_NET_BIND_SERVICE",
        _ => "",
    };
    anyhow::anyhow!("cannot listen at {at}: {e}{remedy}")
}

/// Opens all sockets.
pub fn sockets(cli: &Cli) -> anyhow::Result<Vec<Socket>> {
    let mut all = Vec::new();
    for at in listen(cli)? {
        let sockets = Socket::open(at, cli.workers, cli.receive_buffer);
        let sockets = sockets.map_err(|e| refusal(at, &e))?;
        for socket in sockets.iter().take(1) {
            tracing::info!("listening on {}", socket.local());
        }
        all.extend(sockets);
    }
    Ok(all)
}

/// Opens all outputs. `closed` is called when the only one will never be read any more.
pub fn sinks(
    cli: &Cli,
    pool: &Arc<Pool>,
    closed: impl Fn() + Clone + Send + 'static,
) -> anyhow::Result<Vec<Sink>> {
    let outputs = outputs(cli)?;
    let alone = outputs.len() == 1;
    let compressed = outputs.iter().filter(|_| cli.compress);
    let left = compressed.map(|(output, _)| output.place.clone()).collect();
    let compressor = Compressor::new(left)?;
    let open = |(nth, (output, promised)): (usize, &(Output, bool))| {
        let opening = Opening {
            nth,
            place: output.place.clone(),
            policy: policy(cli, format(cli, output).ending()),
            compressor: compressor.clone(),
            promised: *promised,
            alone,
            limit: cli.queue as usize,
        };
        Sink::open(opening, pool, Box::new(closed.clone())).context("--output")
    };
    outputs.iter().enumerate().map(open).collect()
}

/// Returns the policy of files, of an output whose entries end so.
pub fn policy(cli: &Cli, ending: Ending) -> Policy {
    Policy {
        sync: cli.fsync == Fsync::Always,
        rotate_bytes: cli.rotate,
        keep: cli.keep,
        compress: cli.compress,
        ending,
    }
}

/// Returns how much of old files is kept.
pub fn bounds(cli: &Cli) -> Bounds {
    Bounds {
        size: cli.keep_size,
        age: cli.keep_age,
    }
}

/// Begins to remove old files that are more than these bounds allow, which may change.
pub fn tidy(cli: &Cli, pool: &Arc<Pool>) -> anyhow::Result<Arc<Mutex<Bounds>>> {
    let (outputs, pool) = (outputs(cli)?, pool.clone());
    let shared = Arc::new(Mutex::new(bounds(cli)));
    let current = shared.clone();
    let thread = thread::Builder::new().name("tidy".into());
    thread.spawn(move || loop {
        let bounds = *current.lock().unwrap_or_else(PoisonError::into_inner);
        let bounded = bounds.size.is_some() || bounds.age.is_some();
        for (nth, (output, _)) in outputs.iter().enumerate().filter(|_| bounded) {
            let release = |path: &Path| {
                let path = path.to_str();
                path.is_none_or(|path| pool.release(&(nth, path.into())))
            };
            let tidied = sink::tidy(&output.place, &bounds, SystemTime::now(), release);
            if let Err(e) = tidied {
                tracing::warn!("{}: cannot remove all old files: {e}", output.place);
            }
        }
        thread::sleep(TIDY);
    })?;
    Ok(shared)
}

fn format(cli: &Cli, output: &Output) -> Format {
    output.format.unwrap_or(cli.format)
}

/// Returns whether all outputs are these, to be ended as they are.
pub fn are_outputs(cli: &Cli, sinks: &[Sink]) -> anyhow::Result<bool> {
    let outputs = outputs(cli)?;
    let is = |(sink, (output, promised)): (&Sink, &(Output, bool))| {
        let ending = format(cli, output).ending();
        sink.place == output.place && sink.promised == *promised && sink.policy().ending == ending
    };
    Ok(outputs.len() == sinks.len() && sinks.iter().zip(&outputs).all(is))
}

/// Returns the operator's choices about records.
pub fn choices(cli: &Cli) -> anyhow::Result<Choices> {
    let terminal = io::stdout().is_terminal();
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let look = |(output, _): &(Output, bool)| {
        let shown = terminal && output.place == Place::Stdout;
        let style = Style {
            colour: cli.color.is(shown && !plain),
            wall_clock: cli.wall_clock.is(!shown),
            kmsg: cli.json_kmsg,
        };
        Look {
            level: output.level,
            format: format(cli, output),
            style,
        }
    };
    Ok(Choices {
        host_rate: cli.host_rate,
        looks: Some(outputs(cli)?.iter().map(look).collect()),
    })
}

/// Returns the settings of a receiver, of so many.
pub fn config(cli: &Cli, workers: usize) -> Config {
    Config {
        dialect: cli.dialect,
        history: !cli.no_history,
        silence: cli.silence,
        host_memory: cli.host_memory as usize,
        total_memory: cli.memory as usize / workers,
        max_hosts: cli.max_hosts as usize,
        ..Config::default()
    }
}

/// Opens the state, and tells the others what it knows.
pub fn state(cli: &Cli, files: &Files, now: Instant) -> anyhow::Result<Option<Arc<State>>> {
    let Some(directory) = &cli.state else {
        return Ok(None);
    };
    let state = State::open(directory, cli.fsync == Fsync::Always)?;
    let idle = state.idle();
    for former in state.unclaimed() {
        if former.holds {
            files.names.hold(former.host, former.session);
        }
        if let Some(expect) = &files.expect {
            expect.was_heard(former.host, former.silent, idle.unwrap_or(former.silent));
        }
    }
    tracing::debug!("the state was read in {:?}", now.elapsed());
    Ok(Some(Arc::new(state)))
}

/// Opens the index, if there is to be one, and returns the place where crashes are told.
pub fn hub(cli: &Cli) -> anyhow::Result<Hub> {
    let mut hub = Hub::default();
    if let Some(directory) = &cli.index {
        hub.index = Some(Index::open(directory, indexed(cli)?).context("--index")?);
    }
    if let Err(e) = check_on_crash(cli) {
        // It may still be installed.
        tracing::warn!("{e:#}");
    }
    hub.hook.set(on_crash(cli)).context("--on-crash")?;
    Ok(hub)
}

/// Returns the program of `--on-crash`.
pub fn on_crash(cli: &Cli) -> Option<&[String]> {
    cli.on_crash.as_ref().map(|words| &words.0[..])
}

/// Checks that there is such a program.
pub fn check_on_crash(cli: &Cli) -> anyhow::Result<()> {
    on_crash(cli).map_or(Ok(()), |words| {
        hook::check(words).with_context(|| format!("--on-crash {}", words[0]))
    })
}

/// Returns the outputs that the index knows: their places and formats.
pub fn indexed(cli: &Cli) -> anyhow::Result<Vec<(String, &'static str)>> {
    let place = |(output, _): (Output, bool)| {
        let word = format(cli, &output).word();
        match output.place {
            Place::Stdout => None,
            Place::File(path) => Some((absolute(&path), word)),
            Place::PerHost(path) => Some((absolute(Path::new(&path)), word)),
        }
    };
    // Standard output should not lack records.
    let whole = |(output, _): &(Output, bool)| output.level.is_none();
    let outputs = outputs(cli)?.into_iter();
    Ok(outputs.filter(whole).filter_map(place).collect())
}

fn absolute(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or(path.into());
    path.display().to_string()
}

/// Checks whether all could begin, and changes nothing (`--check`). An address or a state that is
/// in use is no error: mostly it is the ncrx that runs.
pub fn check(cli: &Cli) -> anyhow::Result<()> {
    for (output, _) in outputs(cli)? {
        let place = &output.place;
        sink::check(place).with_context(|| format!("--output {place}"))?;
    }
    if let Some(directory) = &cli.state {
        State::check(directory, usize::from(cli.workers) * listen(cli)?.len())?;
    }
    if let Some(directory) = &cli.index {
        let file = Place::File(index::file(directory));
        sink::check(&file).context("--index")?;
    }
    check_on_crash(cli)?;
    let mut ours = Vec::new();
    for at in listen(cli)? {
        match Socket::open(at, cli.workers, cli.receive_buffer) {
            Ok(sockets) => ours.extend(sockets),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                let port = |socket: &Socket| socket.local().port();
                if let Some(other) = ours.iter().find(|socket| port(socket) == at.port()) {
                    bail!("--listen {at} is a part of --listen {}", other.local());
                }
                tracing::warn!("{at} is in use: `ss -ulpn` tells whether it is by ncrx");
            }
            Err(e) => return Err(refusal(at, &e)),
        }
    }
    check_pages(cli)
}

/// Checks whether the pages could be served, one beside the other.
fn check_pages(cli: &Cli) -> anyhow::Result<()> {
    let mut ours: Vec<(&str, TcpListener)> = Vec::new();
    for (option, at) in [("--metrics", cli.metrics), ("--web", cli.web)] {
        let Some(at) = at else { continue };
        match http::listen(at) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                let port = |of: &TcpListener| of.local_addr().map_or(0, |at| at.port());
                if let Some((other, _)) = ours.iter().find(|(_, of)| port(of) == at.port()) {
                    bail!("{option} {at} is taken by {other}: give one another port");
                }
                tracing::warn!("{at} is in use: `ss -tlpn` tells whether it is by ncrx");
            }
            Err(e) => return Err(no_page(option, at, &e)),
            Ok(listener) => ours.push((option, listener)),
        }
    }
    Ok(())
}

/// The error of an address that nothing can be served at.
pub fn no_page(option: &str, at: SocketAddr, e: &io::Error) -> anyhow::Error {
    anyhow::anyhow!("cannot serve {option} {at}: {e}; try another port")
}
