// SPDX-License-Identifier: GPL-2.0

//! `ncrx`: receives kernel logs and writes them. The library knows what they mean; the program is
//! sockets, files, threads and signals.
//!
//! # Map
//!
//! | file | contents |
//! |---|---|
//! | `main.rs` | the start, the threads, signals, the end |
//! | `cli/`, `settings.rs` | the options and their values; those of a file |
//! | `choices.rs`, `reload.rs` | what may change while ncrx runs; SIGHUP, which changes it |
//! | `log.rs` | messages of ncrx itself |
//! | `setup.rs` | sockets, outputs and settings from the options |
//! | `worker.rs` | the loop: datagrams from the socket to the receiver, records to the outputs, responses |
//! | `socket.rs` | a socket: many datagrams a call, responses from the right address |
//! | `outputs.rs`, `groups.rs` | all outputs of a worker; what may be acknowledged |
//! | `events.rs` | events, joined for people |
//! | `limits.rs` | how much hosts may log |
//! | `held.rs` | records that wait until it is clear when they were logged, and by which host |
//! | `crashes.rs`, `index/` | crashes in what is handed out; the index of hosts, boots and crashes |
//! | `commands/`, `reader.rs` | what people ask: `ncrx crashes`, `ncrx show`; records in files |
//! | `hook.rs` | the program of `--on-crash` |
//! | `again.rs` | records that some outputs have and others lack |
//! | `format/` | records as text, JSON, for the journal, for syslog |
//! | `sink/` | an output: its queue and its thread; standard output, a file, files for each host |
//! | `state.rs` | the state of all senders, from one run to the next |
//! | `addr.rs`, `allow.rs`, `names.rs` | addresses; senders that may write; names of senders |
//! | `userdata.rs` | what senders say of themselves, for names |
//! | `expect.rs`, `watch.rs` | hosts that should be heard; blocked outputs and silent hosts |
//! | `metrics/`, `web/`, `http.rs` | metrics; the page for people; the server of both |
//! | `overview.rs` | all hosts at a glance |
//!
//! | thread | waits for |
//! |---|---|
//! | main | signals |
//! | a worker for each socket | that socket, and what outputs have done |
//! | an output | files, pipes, disks |
//! | compress | disks |
//! | index | its database |
//! | on-crash-0 to 3 | crashes, and the program of `--on-crash` |
//! | metrics, web | their clients |
//! | names | the resolver |
//! | watch | nothing |
//! | tidy | disks |

mod addr;
mod again;
mod allow;
mod choices;
mod clashes;
mod cli;
mod commands;
mod crashes;
mod doubts;
mod events;
mod expect;
mod format;
mod groups;
mod held;
mod hook;
mod http;
mod index;
mod limits;
mod log;
mod metrics;
mod names;
mod outputs;
mod overview;
mod reader;
mod reload;
mod settings;
mod setup;
mod sink;
mod socket;
mod state;
mod userdata;
mod watch;
mod web;
mod worker;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use clap::CommandFactory;
use ncrx::Receiver;
use nix::libc::SIGXFSZ;
use nix::sys::eventfd::EventFd;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::{Handle, Signals};

use crate::choices::Current;
use crate::cli::Cli;
use crate::commands::Program;
use crate::crashes::{Hub, Watcher};
use crate::format::Clock;
use crate::groups::End;
use crate::metrics::{Metrics, Sources};
use crate::outputs::Outputs;
use crate::reload::Running;
use crate::settings::Settings;
use crate::setup::Files;
use crate::sink::{Pool, Sink};
use crate::socket::Socket;
use crate::state::State;
use crate::worker::{Claimed, Worker};

/// The time after which a second signal is meant: `timeout`, for one, sends two at a time.
const GRACE: Duration = Duration::from_millis(500);
/// The longest wait for `--best-effort` outputs at the end.
const LAST: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let (result, failure) = match settings::parse() {
        Ok((program, settings)) => (go(program, settings), ExitCode::FAILURE),
        Err(e) => {
            log::init(0, false);
            // As for an option of the command line.
            (Err(e), ExitCode::from(2))
        }
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            failure
        }
    };
    log::finish();
    code
}

/// Does what was asked for.
fn go(program: Program, settings: Option<Settings>) -> anyhow::Result<()> {
    let Program { cli, command } = program;
    if let Some(command) = command {
        log::init(0, false);
        command.run()
    } else if cli.man {
        print(&commands::manual()?)
    } else if let Some(shell) = cli.completions {
        let mut page = Vec::new();
        clap_complete::generate(shell, &mut Program::command(), "ncrx", &mut page);
        print(&page)
    } else {
        log::init(cli.verbose, cli.quiet);
        run(cli, settings)
    }
}

fn print(page: &[u8]) -> anyhow::Result<()> {
    match io::stdout().write_all(page) {
        // The reader has closed it, and knows.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn run(cli: Cli, settings: Option<Settings>) -> anyhow::Result<()> {
    let clock = Clock {
        instant: Instant::now(),
        system: SystemTime::now(),
    };
    setup::suits(&cli)?;
    let files = Files::read(&cli)?;
    if cli.check {
        setup::check(&cli)?;
        return print(b"All that was given can be used.\n");
    }
    let impatient = Arc::default();
    let mut signals = signals(&impatient)?;
    let sockets = setup::sockets(&cli)?;
    let pool = Arc::new(Pool::new(cli.new_files)?);
    let closed = signals.handle();
    let sinks: Arc<[Sink]> = setup::sinks(&cli, &pool, move || closed.close())?.into();
    let state = setup::state(&cli, &files, clock.instant)?;
    let hub = Arc::new(setup::hub(&cli)?);
    let metrics = metrics(&cli, sockets.len(), &files, &sinks, &pool, &state, &hub)?;
    let stop = Arc::new(EventFd::new()?);
    let ended = signals.handle();
    let choices = Arc::new(Current::default());
    choices.set(setup::choices(&cli)?);
    let shared = Shared {
        files: &files,
        choices: &choices,
        state: &state,
        metrics: &metrics,
        sinks: &sinks,
        hub: &hub,
    };
    let workers = workers(&cli, sockets, clock, &shared, &stop, &ended)?;
    helpers(&files, &sinks)?;
    let bounds = setup::tidy(&cli, &pool)?;
    let running = Running {
        files: &files,
        sinks: &sinks,
        hub: &hub,
        choices: &choices,
        bounds: &bounds,
    };
    notify(NotifyState::Ready);
    obey(&mut signals, &running, settings);
    notify(NotifyState::Stopping);
    stop.write(1)?;
    thread::spawn(move || {
        thread::sleep(GRACE);
        impatient.store(true, Ordering::Relaxed);
    });
    // All have to end before the first error is looked at.
    let results: Vec<_> = workers.into_iter().map(joined).collect();
    hub.finish();
    if sinks
        .iter()
        .any(|sink| sink.status().closed.load(Ordering::Relaxed))
    {
        anyhow::bail!("standard output is closed: nobody reads it any more");
    }
    let unwritten = unwritten(&sinks);
    results.into_iter().chain([unwritten]).collect()
}

/// Begins to wait for signals. A second one ends us at once when `impatient` is set.
fn signals(impatient: &Arc<AtomicBool>) -> io::Result<Signals> {
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    for signal in [SIGTERM, SIGINT] {
        flag::register_conditional_shutdown(signal, 1, impatient.clone())?;
    }
    // A file that may not grow is an error of that output's.
    flag::register(SIGXFSZ, Arc::default())?;
    Ok(signals)
}

/// Does what signals say, until one comes that ends us, or a worker or the only output has ended.
fn obey(signals: &mut Signals, running: &Running<'_>, mut settings: Option<Settings>) {
    for signal in signals.forever() {
        if signal != SIGHUP {
            return;
        }
        running.sinks.iter().for_each(Sink::reopen);
        let taken = settings.as_mut().map_or(Ok(()), |of| running.reload(of));
        running.files.reload();
        match taken {
            Ok(()) => tracing::info!("files are opened anew"),
            Err(e) => tracing::error!("{e:#}. Nothing changes but that outputs are opened anew"),
        }
    }
}

/// The parts that all workers share.
struct Shared<'a> {
    files: &'a Files,
    choices: &'a Arc<Current>,
    state: &'a Option<Arc<State>>,
    metrics: &'a Option<Arc<Metrics>>,
    sinks: &'a [Sink],
    hub: &'a Arc<Hub>,
}

type Thread = JoinHandle<anyhow::Result<()>>;

/// Begins a worker for each socket.
fn workers(
    cli: &Cli,
    sockets: Vec<Socket>,
    clock: Clock,
    shared: &Shared<'_>,
    stop: &Arc<EventFd>,
    ended: &Handle,
) -> anyhow::Result<Vec<Thread>> {
    let config = setup::config(cli, sockets.len());
    let looks = setup::choices(cli)?.looks.unwrap_or_default();
    let begin = |(nth, socket): (usize, Socket)| {
        let Files { names, .. } = shared.files;
        let port = socket.local().port();
        let state = shared.state.as_ref();
        let ends = shared.sinks.iter().zip(&looks);
        let ends = ends.map(|(sink, look)| End::new(sink, look)).collect();
        let file = |state: &Arc<State>| {
            let file = state.file(nth, port, clock.instant)?;
            anyhow::Ok((state.clone(), file))
        };
        let worker = Worker {
            nth,
            socket,
            allow: shared.files.allow.clone(),
            expect: shared.files.expect.clone(),
            receiver: Receiver::new(config.clone()),
            outputs: Outputs::new(
                ends,
                names.clone(),
                cli.host_key.clone(),
                shared.choices.clone(),
                clock,
                Watcher::new(shared.hub.clone()),
            )?,
            names: names.clone(),
            state: state.map(file).transpose()?,
            claimed: Claimed::default(),
            metrics: shared.metrics.clone(),
        };
        let (stop, ended) = (stop.clone(), Ended(ended.clone()));
        let thread = thread::Builder::new().name(format!("worker-{nth}"));
        Ok(thread.spawn(move || {
            let _ended = ended;
            worker.run(&stop)
        })?)
    };
    sockets.into_iter().enumerate().map(begin).collect()
}

/// Begins the threads that nothing depends on.
fn helpers(files: &Files, sinks: &Arc<[Sink]>) -> io::Result<()> {
    if let Some(expect) = files.expect.clone() {
        let names = thread::Builder::new().name("names".into());
        names.spawn(move || expect.look_up_names())?;
    }
    let (sinks, expect) = (sinks.clone(), files.expect.clone());
    let watch = thread::Builder::new().name("watch".into());
    watch.spawn(move || watch::watch(&sinks, expect))?;
    Ok(())
}

fn joined(thread: Thread) -> anyhow::Result<()> {
    match thread.join() {
        Ok(result) => result,
        Err(_) => Err(anyhow::anyhow!("a worker has panicked: this is a bug")),
    }
}

/// Waits for `--best-effort` outputs, and logs what is not written. For an `--output` that is an
/// error.
fn unwritten(sinks: &[Sink]) -> anyhow::Result<()> {
    let end = Instant::now() + LAST;
    let left = |sink: &Sink| sink.status().records.load(Ordering::Relaxed);
    let others = || sinks.iter().filter(|sink| !sink.promised);
    while others().any(|sink| left(sink) > 0) && Instant::now() < end {
        thread::sleep(LAST / 100);
    }
    let mut result = Ok(());
    for sink in sinks.iter().filter(|sink| left(sink) > 0) {
        let since = match watch::blocked(sink) {
            Some(seconds) => format!(", which is blocked for {seconds:.0} s"),
            None => String::new(),
        };
        let what = format!(
            "{} records are not written to {}{since}",
            left(sink),
            sink.place
        );
        if sink.promised {
            tracing::error!("{what}: they were not acknowledged");
            result = Err(anyhow::anyhow!("not all could be written"));
        } else {
            tracing::warn!("{what}");
        }
    }
    result
}

/// Ends the wait for signals when its thread does, however that may be.
struct Ended(Handle);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Serves metrics and the page, if they are wanted.
fn metrics(
    cli: &Cli,
    workers: usize,
    files: &Files,
    sinks: &[Sink],
    pool: &Arc<Pool>,
    state: &Option<Arc<State>>,
    hub: &Arc<Hub>,
) -> anyhow::Result<Option<Arc<Metrics>>> {
    if cli.metrics.is_none() && cli.web.is_none() {
        return Ok(None);
    }
    let outputs = sinks.iter();
    let outputs = outputs.map(|sink| (sink.place.to_string(), sink.queue.clone()));
    let sources = Sources {
        expect: files.expect.clone(),
        names: files.names.clone(),
        allow: files.allow.clone(),
        state: state.clone(),
        hub: hub.clone(),
        outputs: outputs.collect(),
        pool: pool.clone(),
        per_host: cli.metrics_per_host,
    };
    let metrics = Arc::new(Metrics::new(workers, sources));
    if let Some(at) = cli.metrics {
        let listener = http::listen(at).map_err(|e| setup::no_page("--metrics", at, &e))?;
        tracing::info!("metrics are at http://{}/metrics", listener.local_addr()?);
        http::serve(
            "metrics",
            listener,
            metrics::pages(metrics.clone()),
            async {},
        )?;
    }
    if let Some((at, index)) = cli.web.zip(cli.index.as_deref()) {
        let listener = http::listen(at).map_err(|e| setup::no_page("--web", at, &e))?;
        tracing::info!("the page is at http://{}/", listener.local_addr()?);
        web::warn(at);
        web::serve(listener, index, hub.clone(), metrics.clone()).context("--web")?;
    }
    Ok(Some(metrics))
}

/// Tells systemd, if that has started us.
fn notify(state: NotifyState<'_>) {
    if let Err(e) = sd_notify::notify(&[state]) {
        tracing::warn!("cannot tell systemd how we are: {e}");
    }
}
