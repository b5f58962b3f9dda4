// SPDX-License-Identifier: GPL-2.0

//! Options. The manual and the completions of shells are made of them, too.

mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgAction, Parser};
use clap_complete::Shell;
use ipnet::IpNet;
use ncrx::Dialect;

use crate::allow::network;
use crate::format::Format;
use crate::sink::Fsync;
use values::{listen, metrics, one_of, output, size, time, words, DIALECTS, FORMATS, FSYNCS};
pub use values::{Output, When, Words};

/// netconsole's port, and netconsole_ext's.
pub const PORT: u16 = 6666;

const EXAMPLES: &str = "\
Examples:
  ncrx
      Show what comes to port 6666, as dmesg would.
  ncrx --output '/var/log/netconsole/{host}.log' --rotate 100M --keep 8 --state /var/lib/ncrx
      A file for each sender; after a restart go on where it was.
  ncrx --output - --output json:/var/log/netconsole.json
      Show it, and keep it for programs.
  ncrx --format export --output - | systemd-journal-remote --output /var/log/journal/remote -
      Put it into a journal.
  ncrx --format syslog --output - | nc loghost 514
      Give it to rsyslog's imtcp: its imfile does not parse this format.
  ncrx --allow 10.1.0.0/16 --expect hosts.txt --metrics 9666
      Only our hosts; say which of them are silent.
  ncrx --output /var/log/all.log --best-effort json:/mnt/nfs/all.json
      What the second cannot take is not waited for.
  ncrx --index /var/lib/ncrx --output '/var/log/ncrx/{host}.log' --on-crash 'mail -s crash root'
      Keep an index, for `ncrx crashes` and the other commands, and tell of each crash.

Outputs:
  Each output is written by a thread of its own. Records are acknowledged, and so forgotten by their
  senders, when every --output has them; with {host} in its name only that host's file counts. What
  an output cannot take, since it blocks or its disk is full, waits in its --queue, and then with
  the senders. A --best-effort output is never waited for: it loses what does not fit into its
  queue, and the metric ncrx_output_refused_total counts that.

Text:
  Control characters, bytes that are not UTF-8, what is not seen or changes the direction of
  writing, and the backslash are written as \\x.., as /dev/kmsg has them, so that each text can be
  told from all others. JSON has \\u.... for the first and the third, and the backslash as it always
  has; only if a record is not UTF-8 its strings are escaped, and it has \"escaped\": true.

Signals:
  SIGTERM and SIGINT write out what there is, acknowledge it and end the program; a second one, half
  a second later or more, ends it at once. Outputs that block are waited for, three seconds at
  most. SIGHUP opens the files anew, for logrotate, reads --host-names, --expect and --allow-file
  again, and looks up the names of expected hosts again.

Exit status:
  0 after a signal; 1 if it could not begin or go on, or could not write all; 2 for a bad option.";

/// Receives kernel logs from netconsole_ext and netconsole.
///
/// Every record is written once and in order, as far as the sender lets that happen: netconsole_ext
/// is asked again for what is missing, and hears what is written. A record is acknowledged only
/// when all outputs have it.
#[derive(Debug, Parser)]
#[command(name = "ncrx", version, max_term_width = 100, after_long_help = EXAMPLES)]
pub struct Cli {
    /// Take options from this file, in TOML: a key is an option without its dashes, as in
    /// `output = ["-", "json:/var/log/all.json"]`.
    ///
    /// The command line wins. `--check` checks the file, too. SIGHUP reads it again: `allow`,
    /// `host-rate` and `on-crash` change at once, and so do levels, formats and looks of outputs,
    /// `rotate`, `keep`, `compress`, `keep-size` and `keep-age`, unless an output comes or goes, or
    /// is or was in the format export. All else changes when ncrx is started anew; the log names
    /// it. A file that cannot be used changes nothing.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Receive here: an address with a port, or one of them; may be repeated.
    ///
    /// The default is [::]:6666, for IPv4 as well; 0.0.0.0:6666 where IPv6 is off. An address that
    /// this machine does not have yet is listened at as soon as it does. A link-local one needs its
    /// link: fe80::1%eth0.
    #[arg(short, long, value_name = "ADDR:PORT", value_parser = listen)]
    pub listen: Vec<SocketAddr>,

    /// Answer and write only senders in this network; may be repeated.
    ///
    /// Without it everybody who reaches the port may write. 10.0.0.0/8, fd00::/8 or an address
    /// alone.
    #[arg(long, value_name = "CIDR", value_parser = network)]
    pub allow: Vec<IpNet>,

    /// The same for all networks in this file, one a line; SIGHUP reads it again.
    #[arg(long, value_name = "FILE")]
    pub allow_file: Option<PathBuf>,

    /// Language of the responses: netconsole_ext's, or that of Meta's libncrx.
    #[arg(long, default_value = "nca", value_parser = one_of(DIALECTS), ignore_case = true)]
    pub dialect: Dialect,

    /// Do not ask a sender for what it has logged before it is first heard.
    #[arg(long)]
    pub no_history: bool,

    /// Format of the outputs that name none.
    ///
    /// A record's real time is worked out: the sender's clock says when it was logged after the
    /// boot, and the boot is taken to have been as early as the quickest record so far allows,
    /// unless the sender's clock has stood still since then, or goes slow. So no record is dated
    /// after its arrival, and each is late by what the quickest took.
    #[arg(short, long, default_value = "text", value_parser = one_of(FORMATS), ignore_case = true,
        help_heading = "Output")]
    pub format: Format,

    /// Write to this, `-` for standard output; may be repeated. The default is `-`.
    ///
    /// Records are acknowledged only when all of these have them.
    ///
    /// A path with {host} in it stands for one file a sender; there also are {ip}, {port}, {date}
    /// (the day on which a record came, UTC), and {key:rack}, the value of `rack` in the sender's
    /// userdata. What cannot be a part of a name becomes `_`; a new value of a key counts after a
    /// minute.
    ///
    /// A format in front of it, as in `json:/var/log/netconsole.json`, is that of this output only;
    /// write `./json:x` if that is a file's name.
    ///
    /// `level=err:PLACE`, or `json,level=err:PLACE`, has only records of that level and more urgent
    /// ones, those without a level, and events.
    #[arg(short, long, value_name = "[FORMAT:]PLACE", value_parser = output,
        help_heading = "Output")]
    pub output: Vec<Output>,

    /// Write to this as well, but acknowledge records without it; may be repeated.
    ///
    /// Records that it cannot take in time are dropped, counted, and reported.
    #[arg(long, value_name = "[FORMAT:]PLACE", value_parser = output, help_heading = "Output")]
    pub best_effort: Vec<Output>,

    /// How much may wait for an output; what is more waits with the receiver (--memory) and the
    /// senders.
    #[arg(long, value_name = "SIZE", default_value = "64Mi", value_parser = size, help_heading = "Output")]
    pub queue: u64,

    /// Begin each line of text with the wall clock's time, by RFC 3339. `auto`: everywhere but on a
    /// terminal.
    #[arg(
        long,
        default_value = "auto",
        value_enum,
        ignore_case = true,
        value_name = "WHEN",
        help_heading = "Output"
    )]
    pub wall_clock: When,

    /// Have `kmsg` in json: the record as /dev/kmsg has it, byte for byte.
    #[arg(long, help_heading = "Output")]
    pub json_kmsg: bool,

    /// Colour text by its level. `auto`: on a terminal, unless NO_COLOR is set.
    #[arg(
        long,
        default_value = "auto",
        value_enum,
        ignore_case = true,
        value_name = "WHEN",
        help_heading = "Output"
    )]
    pub color: When,

    /// Begin a new file when one is larger than this: 100M, 1Gi.
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Output")]
    pub rotate: Option<u64>,

    /// How many old files to keep when they are rotated.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 8,
        requires = "rotate",
        help_heading = "Output"
    )]
    pub keep: u32,

    /// Compress old files with zstd; `ncrx show` reads them.
    #[arg(long, requires = "rotate", help_heading = "Output")]
    pub compress: bool,

    /// Remove the oldest of an output's old files when they are more than this together.
    ///
    /// Old files are the rotated ones, and those with a {date} of more than two days ago. Files
    /// that may be written to are never removed, nor are those that ncrx has not made: its own have
    /// the extended attribute `user.ncrx`, also when they are renamed. A file system without such
    /// attributes is warned of, and nothing is removed there.
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Output")]
    pub keep_size: Option<u64>,

    /// Remove old files that were last written to this long ago: 30days. Only those that ncrx has
    /// made, as with --keep-size.
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Output")]
    pub keep_age: Option<Duration>,

    /// When to force files to the disk.
    ///
    /// `never`: what is acknowledged survives a crash of ncrx. `always`: before anything is
    /// acknowledged; it survives a crash of the machine.
    #[arg(long, default_value = "never", value_name = "WHEN", value_parser = one_of(FSYNCS),
        ignore_case = true, help_heading = "Output")]
    pub fsync: Fsync,

    /// Show the names in this file, in the format of /etc/hosts, instead of addresses.
    ///
    /// An address may have a port there, as 10.0.0.1:40001 or [fe80::1%eth0]:6665, for machines
    /// behind one address. Those that have no name are called by their address; if another one has
    /// the same, and is heard, by their port, too. SIGHUP reads it again.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub host_names: Option<PathBuf>,

    /// Call a sender what this key of its userdata says, as `host`. Names of --host-names come
    /// first.
    ///
    /// Senders are believed: one that calls itself like another one writes into its file. A new
    /// name counts after a minute.
    #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new(),
        help_heading = "Output")]
    pub host_key: Option<String>,

    /// Remember in this directory what has been received, to go on there after a restart.
    ///
    /// With that nothing is written twice if ncrx was told to stop; after a crash the last second
    /// or so may be, and what had waited for records that were missing. If it stops while records
    /// from before a sender was first heard are still asked for, and that sender names no session,
    /// what has come after them is written again; so is what has come after the first thousand
    /// gaps.
    ///
    /// Without it a sender is asked after a restart for all that it still has, and some of that is
    /// written for a second time.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub state: Option<PathBuf>,

    /// Keep an index of hosts, boots and crashes in this directory: see `ncrx crashes --help`.
    ///
    /// It is written beside the outputs and nothing waits for it. What it misses is counted
    /// (ncrx_index_missed_total), and can be had from the files again: `ncrx index --help`.
    #[arg(long, value_name = "DIR", help_heading = "Supervision")]
    pub index: Option<PathBuf>,

    /// Run this for each crash, with its report (JSON, with all lines) on standard input.
    ///
    /// A program and its arguments, in quotes where they have blanks: there is no shell. At most 4
    /// run at a time and 64 crashes wait; after 30 s it is killed. What fails is counted
    /// (ncrx_on_crash_failed_total).
    #[arg(long, value_name = "CMD", value_parser = words, help_heading = "Supervision")]
    pub on_crash: Option<Words>,

    /// Say which of the hosts in this file are not heard; an address or a name on each line, or
    /// lines as in /etc/hosts.
    ///
    /// Names are those of --host-names, or are looked up until they are found. SIGHUP reads it
    /// again. With --state the time that a host is silent goes on over a restart.
    #[arg(long, value_name = "FILE", help_heading = "Supervision")]
    pub expect: Option<PathBuf>,

    /// For how long an expected host may be silent. A keepalive comes every 20 s.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time,
        requires = "expect", help_heading = "Supervision")]
    pub expect_after: Duration,

    /// Serve metrics for Prometheus at http://ADDR:PORT/metrics. A port alone is one of 127.0.0.1.
    #[arg(long, value_name = "ADDR:PORT", value_parser = metrics, help_heading = "Supervision")]
    pub metrics: Option<SocketAddr>,

    /// With some metrics for each sender.
    #[arg(long, requires = "metrics", help_heading = "Supervision")]
    pub metrics_per_host: bool,

    /// Serve a page for people at http://ADDR:PORT: hosts, crashes, what comes live. A port alone
    /// is one of 127.0.0.1.
    ///
    /// It only reads. Whoever reaches the address can read all logs: at a loopback address that is
    /// this machine; put a proxy in front of it to have people log in.
    #[arg(long, value_name = "ADDR:PORT", value_parser = metrics, requires = "index",
        help_heading = "Supervision")]
    pub web: Option<SocketAddr>,

    /// Check the options, and all files and addresses that they name, and end.
    ///
    /// Nothing is made or changed. What is in use is no error: mostly it is the ncrx that runs.
    #[arg(long, help_heading = "Supervision")]
    pub check: bool,

    /// Log more about what ncrx does, to standard error; twice for even more.
    ///
    /// RUST_LOG is heeded, too.
    #[arg(short, long, action = ArgAction::Count, help_heading = "Supervision")]
    pub verbose: u8,

    /// Log only errors.
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Supervision")]
    pub quiet: bool,

    /// Threads for each address that is listened at. The kernel deals the senders out to them.
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=256), help_heading = "Limits")]
    pub workers: u16,

    /// How much the kernel may keep for each thread that is busy.
    ///
    /// More than net.core.rmem_max needs CAP_NET_ADMIN.
    #[arg(long, value_name = "SIZE", default_value = "16Mi", value_parser = size, help_heading = "Limits")]
    pub receive_buffer: u64,

    /// How much is kept of one sender to be put in order.
    #[arg(long, value_name = "SIZE", default_value = "8Mi", value_parser = size, help_heading = "Limits")]
    pub host_memory: u64,

    /// The same for all senders; each thread has its share of it.
    #[arg(long, value_name = "SIZE", default_value = "1Gi", value_parser = size, help_heading = "Limits")]
    pub memory: u64,

    /// How many senders each thread may know at a time.
    #[arg(long, value_name = "N", default_value_t = 100_000, help_heading = "Limits",
        value_parser = clap::value_parser!(u32).range(1..))]
    pub max_hosts: u32,

    /// How many files with {host} in their name may be made a minute for senders that have proven
    /// nothing; more have to wait.
    ///
    /// A sender has proven itself when it has kept its session for ten seconds, or has shown that
    /// it hears the answers, as one that has to wait is asked to do.
    #[arg(long, value_name = "N", default_value_t = 10_000, help_heading = "Limits",
        value_parser = clap::value_parser!(u32).range(1..))]
    pub new_files: u32,

    /// How many records a second of one host are written; the rest of the second is dropped.
    ///
    /// A gap stands for what is dropped, and ncrx_limited_total counts it. It is acknowledged, so
    /// it is lost. Records of a crash are not dropped, up to 600 in ten seconds. Without it all are
    /// written.
    #[arg(long, value_name = "N", help_heading = "Limits",
        value_parser = clap::value_parser!(u32).range(1..))]
    pub host_rate: Option<u32>,

    /// For how long a sender may be silent before all that there is of it is written.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time, help_heading = "Limits")]
    pub silence: Duration,

    /// Print the completions for a shell.
    #[arg(long, value_name = "SHELL", exclusive = true, hide = true)]
    pub completions: Option<Shell>,

    /// Print the man page.
    #[arg(long, exclusive = true, hide = true)]
    pub man: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }
}
