// SPDX-License-Identifier: GPL-2.0

//! The command `netconsole-ext` (`dist/netconsole-ext`), with a folder for what the kernel shows,
//! and with stand-ins (`fake/`) for the programs that would look up names and routes.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A machine that has a route and a name for the logger 10.0.0.1.
struct Machine {
    root: TempDir,
}

const TARGETS: &str = "sys/kernel/config/netconsole_ext";

impl Machine {
    fn new(config: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        for dir in [
            "etc/default",
            "sys/kernel/config",
            "run",
            "dev",
            "proc/sys/kernel",
        ] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let machine = Self { root };
        machine.write("dev/kmsg", "");
        machine.write("proc/sys/kernel/printk", "4\t4\t1\t7\n");
        machine.write("hosts", "loghost 10.0.0.1\n");
        machine.write(
            "routes",
            "10.0.0.1 eth0\n10.0.0.2 eth1\nfd00::1 eth0\nfe80::1 eth0\n",
        );
        machine.configure(config);
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    fn configure(&self, config: &str) {
        self.write("etc/default/netconsole-ext", config);
    }

    /// A program that finds the command, and the stand-ins for others.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        let path = format!("{0}/tests/service/fake:{0}/dist:{path}", top.display());
        let mut command = Command::new(program);
        command
            .env("NETCONSOLE_EXT_ROOT", self.root.path())
            .env("ROOT", self.root.path())
            .env("PATH", path)
            .env("NETCONSOLE_EXT_ACK_MS", "100")
            .env_remove("INVOCATION_ID")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, command: &str) -> Said {
        let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist");
        let mut program = self.command(dist.join("netconsole-ext"));
        program.arg(command).output().unwrap().into()
    }

    /// Runs a command that must succeed.
    fn ok(&self, command: &str) -> String {
        let said = self.run(command);
        assert_eq!(said.status, 0, "{said:?}");
        said.text
    }

    /// The names of the targets that there are.
    fn targets(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(TARGETS)) else {
            return Vec::new();
        };
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries.map(|e| name(e).into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn attribute(&self, target: &str, name: &str) -> String {
        let text = self.read(&format!("{TARGETS}/{target}/{name}"));
        text.trim_end().to_string()
    }

    fn assert_attributes(&self, target: &str, wanted: &[(&str, &str)]) {
        for (name, value) in wanted {
            assert_eq!(self.attribute(target, name), *value, "{target}/{name}");
        }
    }

    fn wait_until(&self, what: &str, done: impl Fn() -> bool) {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < Duration::from_secs(30), "never: {what}");
            sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Machine {
    /// Ends what is in the background.
    fn drop(&mut self) {
        let _ = fs::remove_file(self.path("modprobe-says"));
        self.run("stop");
    }
}

/// The text that a command has printed, on both of its outputs, and its exit status.
#[derive(Debug)]
struct Said {
    status: i32,
    text: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = [output.stdout, output.stderr].concat();
        Self {
            status: output.status.code().unwrap(),
            text: String::from_utf8(text).unwrap(),
        }
    }
}

fn assert_has(text: &str, part: &str) {
    assert!(text.contains(part), "no {part:?} in {text:?}");
}

#[test]
fn one_line_is_enough() {
    let machine = Machine::new("# comment\n\nLOGGER=loghost\n");
    let said = machine.ok("start");
    assert_has(&said, "loghost (10.0.0.1): acked by 10.0.0.1 after ");
    assert_eq!(machine.targets(), ["logger1"]);
    machine.assert_attributes(
        "logger1",
        &[
            ("extended", "1"),
            ("dev_name", "eth0"),
            ("local_port", "6665"),
            ("remote_port", "6666"),
            ("remote_ip", "10.0.0.1"),
            ("remote_mac", ""),
            ("full_log", "1"),
            ("enabled", "1"),
        ],
    );
    // A console log level of 4 lets through what is more urgent.
    assert_eq!(machine.read("dev/kmsg"), "<3>netconsole-ext: test record\n");
}

#[test]
fn loggers_have_many_forms() {
    let machine = Machine::new(
        "LOGGER=\"loghost:7000 10.0.0.2 [fd00::1]:7001 fe80::1%eth0\" # four\nFORMAT='basic'\n",
    );
    let said = machine.ok("start");
    assert_has(
        &said,
        "loghost (10.0.0.1), port 7000: sent; what is in the basic format",
    );
    let wanted = [
        ("logger1", "10.0.0.1", "7000", "eth0"),
        ("logger2", "10.0.0.2", "6666", "eth1"),
        ("logger3", "fd00::1", "7001", "eth0"),
        ("logger4", "fe80::1%eth0", "6666", "eth0"),
    ];
    for (target, ip, port, dev) in wanted {
        machine.assert_attributes(
            target,
            &[
                ("remote_ip", ip),
                ("remote_port", port),
                ("dev_name", dev),
                ("extended", "0"),
                ("enabled", "1"),
            ],
        );
    }
}

#[test]
fn files_of_others_are_understood() {
    let machine = Machine::new(
        "NETCONSOLE_OPTS=\"+r7000@10.0.2.9/eth0,7001@10.0.0.1/02:00:00:00:00:01;@/eth1,@10.0.0.2/\"\n\
         SYSLOGADDR=loghost\nSYSLOGPORT=515\nDEV=eth0\nLOCALPORT=\nSYSLOGMACADDR=\n",
    );
    machine.ok("start");
    machine.assert_attributes(
        "logger1",
        &[
            ("extended", "1"),
            ("release", "1"),
            ("local_port", "7000"),
            ("local_ip", "10.0.2.9"),
            ("remote_port", "7001"),
            ("remote_mac", "02:00:00:00:00:01"),
        ],
    );
    machine.assert_attributes("logger2", &[("extended", "0"), ("dev_name", "eth1")]);
    machine.assert_attributes(
        "logger3",
        &[
            ("extended", "0"),
            ("local_port", "6666"),
            ("remote_port", "515"),
            ("remote_ip", "10.0.0.1"),
        ],
    );
}

#[test]
fn hostile_and_odd_values_change_nothing() {
    let cases = [
        ("LOGGER=$(touch $ROOT/executed)", "line 1: LOGGER="),
        ("LOGGER=\"`touch $ROOT/executed`\"", "line 1: LOGGER="),
        ("LOGGER='x'; touch $ROOT/executed", "line 1: LOGGER="),
        ("LOGGER=loghost;reboot", "loghost\\;reboot is no host name"),
        ("LOGGER=-oProxy", "-oProxy is no host name"),
        ("LOGGER=../etc", "../etc is no host name"),
        ("LOGGER=\"loghost", "a quote too few"),
        ("LOGGER=\u{1b}[2Jx", "$'\\E[2Jx'"),
        ("LOGGER=loghost:", "'' is no port"),
        ("LOGGER=loghost:0", "0 is no port"),
        ("LOGGER=loghost:65536", "65536 is no port"),
        ("LOGGER=loghost:6666:1", "6666:1 is no port"),
        ("LOGGER=10.0.0.256", "10.0.0.256 is no host name or address"),
        ("LOGGER=[10.0.0.1]:5", "10.0.0.1 is no IPv6 address"),
        ("LOGGER='loghost loghost:6666'", "loghost is named twice"),
        (
            "LOGGER=loghost\nDEV=../../eth0",
            "line 2: DEV: ../../eth0 is no name of a device",
        ),
        ("LOGGER=loghost\nDEV='eth0 eth1'", "is no name of a device"),
        ("LOGGER=loghost\nLOCALPORT=x", "LOCALPORT: x is no port"),
        (
            "LOGGER=loghost\nFORMAT=json",
            "json is neither extended nor basic",
        ),
        (
            "LOGGER=loghost\nFULL_LOG=maybe",
            "maybe is neither yes nor no",
        ),
        ("LOGER=loghost", "there is no setting LOGER"),
        ("PATH=/tmp", "there is no setting PATH"),
        ("reboot", "reboot is not NAME=value"),
        ("NETCONSOLE_OPTS=eth0", "eth0 is not [+][r][port]@"),
        ("NETCONSOLE_OPTS=@/eth0,@loghost/", "loghost is no address"),
        (
            "NETCONSOLE_OPTS=@/eth0,@10.0.0.1/x",
            "x is no Ethernet address",
        ),
        ("SYSLOGADDR=-x", "-x is no host name or address"),
        ("SYSLOGMACADDR=02:00", "02:00 is no Ethernet address"),
    ];
    let machine = Machine::new("LOGGER=loghost\n");
    machine.ok("start");
    for (config, reason) in cases {
        machine.configure(&format!("{config}\n"));
        let said = machine.run("restart");
        assert_eq!(said.status, 1, "{config:?}: {said:?}");
        assert_has(&said.text, reason);
        assert_has(&said.text, "nothing is changed");
        assert_eq!(machine.targets(), ["logger1"], "{config:?}");
        assert_eq!(machine.attribute("logger1", "enabled"), "1");
    }
    assert!(!machine.path("executed").exists());
}

#[test]
fn restart_keeps_what_is_the_same() {
    let machine = Machine::new("LOGGER='loghost 10.0.0.2'\n");
    machine.ok("start");
    machine.write(&format!("{TARGETS}/logger1/mark"), "kept");
    machine.configure("LOGGER='fd00::1 loghost'\n");
    machine.ok("restart");
    assert_eq!(machine.targets(), ["logger1", "logger3"]);
    assert_eq!(machine.attribute("logger1", "mark"), "kept");
    assert_eq!(machine.attribute("logger3", "remote_ip"), "fd00::1");
    // The configuration has no logger any more.
    machine.configure("");
    assert_has(&machine.ok("restart"), "nothing to do");
    assert_eq!(machine.targets(), [""; 0]);
}

#[test]
fn a_target_that_is_refused_leaves_all_as_it_was() {
    let machine = Machine::new("LOGGER='loghost 10.0.0.2'\n");
    machine.ok("start");
    // One address is gone, one is new, one is refused.
    machine.configure("LOGGER='loghost fd00::1 fe80::1'\n");
    machine.write("refuse", "logger4");
    let said = machine.run("restart");
    assert_eq!(said.status, 1, "{said:?}");
    assert_has(
        &said.text,
        "fe80::1: enabled=1 is refused: No space left on device",
    );
    assert_eq!(machine.targets(), ["logger1", "logger2"]);
    for target in ["logger1", "logger2"] {
        assert_eq!(machine.attribute(target, "enabled"), "1");
    }
    // Nothing is left behind if the very first target is refused.
    let machine = Machine::new("LOGGER=loghost\n");
    machine.write("refuse", "logger1");
    assert_eq!(machine.run("start").status, 1);
    assert_eq!(machine.targets(), [""; 0]);
}

#[test]
fn a_name_that_is_not_known_yet_is_waited_for() {
    let machine = Machine::new("LOGGER='10.0.0.2 loghost'\n");
    fs::rename(machine.path("hosts"), machine.path("hosts-later")).unwrap();
    machine.write("hosts", "");
    let said = machine.ok("start");
    assert_has(&said, "loghost: its address is not known (DNS, /etc/hosts)");
    assert_has(&said, "10.0.0.2: acked by 10.0.0.2");
    machine.wait_until("logger2", || machine.targets() == ["logger1", "logger2"]);
    machine.wait_until("an ack", || {
        fs::read_to_string(machine.path("syslog"))
            .is_ok_and(|text| text.contains("loghost (10.0.0.1): acked by"))
    });
    // A name that is no longer known does not remove its target.
    machine.write("hosts", "");
    assert_has(&machine.ok("restart"), "loghost: its address is not known");
    assert_eq!(machine.targets(), ["logger1", "logger2"]);
    let said = machine.ok("stop");
    assert_eq!(machine.targets(), [""; 0], "{said}");
    assert!(!machine.path("run/netconsole-ext/background").exists());
}

#[test]
fn a_target_follows_its_route() {
    let machine = Machine::new("LOGGER='loghost 10.0.0.2'\n");
    machine.write("events", "");
    machine.ok("start");
    // A bridge has been made over the device, and has its address; the name has two more now, in
    // another order.
    machine.write("routes", "10.0.0.1 br0\n10.0.0.2 eth1\n10.0.0.9 eth1\n");
    machine.write("hosts", "loghost 10.0.0.9\nloghost 10.0.0.1\n");
    machine.write(&format!("{TARGETS}/logger2/enabled"), "0\n");
    machine.write("events", "10.0.0.0/24 dev br0\n");
    machine.wait_until("br0", || machine.targets() == ["logger2", "logger3"]);
    machine.assert_attributes("logger3", &[("remote_ip", "10.0.0.1"), ("dev_name", "br0")]);
    // The other one was disabled meanwhile.
    machine.assert_attributes("logger2", &[("remote_ip", "10.0.0.2"), ("enabled", "1")]);
    // The target stays as it is while there is no route.
    machine.write("routes", "");
    machine.write("events", "deleted 10.0.0.0/24 dev br0\n10.0.0.0/24\n");
    machine.wait_until("no route", || {
        let said = machine.run("status").text;
        said.contains("10.0.0.2: there is no route to 10.0.0.2; tried again")
    });
    assert_eq!(machine.targets(), ["logger2", "logger3"]);
}

#[test]
fn a_boot_is_not_held_up() {
    let machine = Machine::new("LOGGER=loghost\n");
    machine.write("running", "starting\n");
    let said = machine.ok("start");
    assert_has(
        &said,
        "not there yet: the network; tried again in the background",
    );
    machine.wait_until("a target", || machine.targets() == ["logger1"]);
}

#[test]
fn the_reason_is_said_when_no_ack_comes() {
    let machine = Machine::new("LOGGER=loghost\n");
    machine.write("silent", "10.0.0.1");
    // A logger that does not answer is no error.
    let said = machine.ok("start");
    assert_has(&said, "loghost (10.0.0.1): not acked within ");
    assert_has(&said, "no answer. Does a logger that answers run there");
    let cases = [
        ("remote_mac", "ff:ff:ff:ff:ff:ff", "is the log host up?"),
        ("stats/state", "no-carrier", "eth0 has no link"),
        ("stats/state", "down", "ip link set eth0 up"),
    ];
    for (name, value, reason) in cases {
        machine.write(&format!("{TARGETS}/logger1/{name}"), &format!("{value}\n"));
        let said = machine.run("check");
        assert_eq!(said.status, 1);
        assert_has(&said.text, reason);
    }
}

#[test]
fn a_module_that_cannot_be_loaded_has_a_remedy() {
    let machine = Machine::new("LOGGER=loghost\n");
    for (reason, remedy) in [
        (
            "FATAL: Module netconsole_ext not found in directory",
            "install netconsole-ext-modules-",
        ),
        (
            "could not insert: Key was rejected by service",
            "Secure Boot",
        ),
        (
            "could not insert: Invalid argument",
            "Invalid argument; see dmesg",
        ),
    ] {
        machine.write("modprobe-says", reason);
        let said = machine.run("start");
        assert_eq!(said.status, 1);
        assert_has(&said.text, remedy);
    }
}

#[test]
fn stop_leaves_what_is_not_ours() {
    let machine = Machine::new("LOGGER=loghost\n");
    machine.ok("start");
    fs::create_dir(machine.path(TARGETS).join("rack7")).unwrap();
    machine.ok("stop");
    assert_eq!(machine.targets(), ["rack7"]);
    fs::remove_dir(machine.path(TARGETS).join("rack7")).unwrap();
    machine.ok("stop");
    assert!(!machine.path(TARGETS).exists());
    assert_eq!(
        machine.read("modprobe.log"),
        "netconsole_ext\n-r netconsole_ext\n"
    );
    // Stopping without a module is no error.
    machine.ok("stop");
}

#[test]
fn a_target_of_the_command_line_is_taken_over() {
    let machine = Machine::new("LOGGER=loghost\n");
    machine.write("cmdline0", "10.0.0.1 6666 eth0\n");
    machine.ok("start");
    assert_eq!(machine.targets(), ["cmdline0"]);
    // A target for another logger does not count.
    let machine = Machine::new("LOGGER=loghost\n");
    machine.write("cmdline0", "10.0.0.1 514 eth0\n");
    machine.ok("start");
    assert_eq!(machine.targets(), ["cmdline0", "logger1"]);
    machine.ok("stop");
    assert_eq!(machine.targets(), ["cmdline0"]);
}

#[test]
fn a_target_of_the_command_line_is_replaced_when_its_device_is_another() {
    let machine = Machine::new("LOGGER=loghost\n");
    machine.write("cmdline0", "10.0.0.1 6666 eth0\n");
    // A bridge has been made over the device since the initramfs was.
    machine.write("routes", "10.0.0.1 br0\n");
    machine.ok("start");
    assert_eq!(machine.targets(), ["logger1"]);
    machine.assert_attributes("logger1", &[("dev_name", "br0"), ("enabled", "1")]);
}

#[test]
fn without_a_logger_there_is_nothing_to_start() {
    let machine = Machine::new("#LOGGER=loghost\n");
    let said = machine.run("configured");
    assert_eq!(said.status, 1, "{said:?}");
    assert_has(&said.text, "LOGGER= is not set");
    // The start reports a mistake.
    for config in ["LOGGER=loghost\n", "LOGGER\n"] {
        machine.configure(config);
        assert_eq!(machine.ok("configured"), "");
    }
}

#[test]
fn this_machine_is_no_logger() {
    let machine = Machine::new("LOGGER=10.9.9.9\n");
    machine.write("routes", "10.9.9.9 lo\n");
    let said = machine.run("start");
    assert_eq!(said.status, 1);
    assert_has(&said.text, "10.9.9.9 is this machine");
}

#[test]
fn status_is_for_people() {
    let machine = Machine::new("LOGGER=loghost\n");
    let said = machine.run("status");
    assert_eq!(
        (said.status, said.text.as_str()),
        (3, "stopped: the module is not loaded\n")
    );
    machine.ok("start");
    let said = machine.ok("status");
    assert_has(
        &said,
        "loghost (10.0.0.1): all is well, the logger has everything",
    );
    assert_has(&said, "5            records sent");
    machine.write(&format!("{TARGETS}/logger1/stats/state"), "emergency\n");
    let said = machine.run("status");
    assert_eq!(said.status, 1);
    assert_has(
        &said.text,
        "no acks: records are sent again and again (emergency)",
    );
}

#[test]
fn the_parameter_has_all_loggers() {
    let machine =
        Machine::new("LOGGER='loghost fd00::1'\nNETCONSOLE_OPTS=@10.0.2.9/eth1,@10.0.0.2/\n");
    assert_eq!(
        machine.ok("parameter"),
        "+6665@/eth0,6666@10.0.0.1/;+6665@/eth0,6666@fd00::1/;6665@10.0.2.9/eth1,6666@10.0.0.2/\n"
    );
    // Without `EARLY=yes` this is an error.
    assert_eq!(machine.run("early").status, 1);
    machine.configure("LOGGER=10.0.0.2\nEARLY=yes\nFULL_LOG=no\n");
    let arguments = "netconsole=+6665@/eth1,6666@10.0.0.2/ full_log=0\n";
    assert_eq!(machine.ok("early"), arguments);
    assert_eq!(machine.ok("devices"), "eth1\n");
}

/// The hooks for initramfs-tools and dracut do nothing unless they are asked to, and never for
/// kdump.
#[test]
fn an_initramfs_has_it_only_on_request() {
    let machine = Machine::new("LOGGER=loghost\n");
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist");
    let setup = dist.join("dracut/module-setup.sh");
    let dracut = |kdump: &str| {
        let script = format!(". {} && check", setup.display());
        let mut command = machine.command("bash");
        command.args(["-c", &script]).env("IN_KDUMP", kdump);
        command.status().unwrap().success()
    };
    assert!(!dracut(""));
    machine.configure("LOGGER=loghost\nEARLY=yes\n");
    assert!(dracut(""));
    assert!(!dracut("1"));

    // Each call returns early: the rest of the hook needs functions that are not here.
    let hook = |confdir: &str, words: &[&str]| {
        let mut command = machine.command(dist.join("initramfs-hook"));
        command.env("CONFDIR", confdir).args(words);
        command.status().unwrap().success()
    };
    assert!(hook("/etc/initramfs-tools", &["prereqs"]));
    assert!(hook("/var/lib/kdump/initramfs-tools", &[]));
    machine.configure("LOGGER=loghost\n");
    assert!(hook("/etc/initramfs-tools", &[]));
}

#[test]
fn commands_are_explained() {
    let machine = Machine::new("");
    assert_has(&machine.ok("--help"), "LOGGER=loghost");
    assert_has(&machine.ok("--version"), env!("CARGO_PKG_VERSION"));
    let said = machine.run("strat");
    assert_eq!(said.status, 2);
    assert_has(&said.text, "Usage: netconsole-ext COMMAND");
}
