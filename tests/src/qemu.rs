// SPDX-License-Identifier: GPL-2.0

//! The emulator's process and its channels.

use std::fs::File;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use nctest_guest::PORT;

use crate::accel::Accel;
use crate::arch::Arch;

/// The longest time that QEMU may take to open its channels.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The kind of network card that the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NicModel {
    /// Paravirtual, without any offload, so that all checksums are the guest's.
    Virtio,
    /// Intel's 82540EM, a driver with a NAPI poll like any real one.
    E1000,
}

/// The paravirtual card. It need not announce itself after it was loaded from a snapshot, and
/// `guest_announce=off` keeps QEMU 7.2 from following a null pointer when the guest resets the card
/// later (`virtio_net_reset`, once `announce-rounds=0` has freed the timer).
pub const VIRTIO: &str = "virtio-net-pci,csum=off,guest_csum=off,gso=off,guest_tso4=off,\
    guest_tso6=off,guest_ecn=off,guest_ufo=off,host_tso4=off,host_tso6=off,host_ecn=off,\
    host_ufo=off,guest_announce=off";

/// The machine to start.
pub struct Machine<'a> {
    /// A directory of this machine's own, for sockets.
    pub dir: &'a Path,
    /// Its architecture.
    pub arch: &'a Arch,
    /// The kernel image.
    pub kernel: &'a Path,
    /// The way it starts: boot or snapshot.
    pub start: &'a Start<'a>,
    /// The kernel's command line.
    pub append: &'a str,
    /// A disk, which the guest may write to.
    pub disk: Option<&'a Path>,
    /// Memory, in MiB.
    pub memory: u32,
    /// The CPU model, as QEMU names it.
    pub cpu: &'a str,
    /// The number of processors.
    pub cpus: u32,
    /// One entry a network card.
    pub nics: &'a [NicModel],
    /// The accelerator.
    pub accel: Accel,
    /// Whether one thread emulates all processors.
    pub one_thread: bool,
}

/// The way a machine starts.
pub enum Start<'a> {
    /// It boots with the initramfs in this file.
    Boot(&'a Path),
    /// It goes on from a snapshot, once [`Qmp::load`](crate::qmp::Qmp::load) has read it.
    Snapshot(&'a Path),
}

/// A running QEMU. It is killed when this is dropped, and by the kernel when
/// the thread that started it ends.
pub struct Qemu {
    child: Child,
    stderr: PathBuf,
}

/// The channels to a running QEMU.
pub struct Channels {
    /// The serial console.
    pub serial: UnixStream,
    /// The control channel.
    pub qmp: UnixStream,
    /// The agent's virtio-serial port.
    pub agent: UnixStream,
}

/// Returns the hardware address of the guest's `n`th card.
pub fn nic_mac(n: usize) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, u8::try_from(n + 1).expect("few cards")]
}

/// Returns the socket that QEMU receives the `n`th card's frames on.
pub fn guest_socket(dir: &Path, n: usize) -> PathBuf {
    dir.join(format!("guest{n}"))
}

/// Returns the socket that QEMU sends the `n`th card's frames to.
pub fn host_socket(dir: &Path, n: usize) -> PathBuf {
    dir.join(format!("host{n}"))
}

impl Qemu {
    /// Starts a machine and connects to it.
    pub fn start(machine: &Machine) -> Result<(Self, Channels)> {
        let dir = machine.dir;
        let listen = |name: &str| UnixListener::bind(dir.join(name));
        let (serial, qmp, agent) = (listen("serial")?, listen("qmp")?, listen("agent")?);
        let stderr = dir.join("stderr");
        let child = command(machine)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&stderr)?)
            .spawn()
            .with_context(|| format!("starting {} by setpriv (util-linux)", machine.arch.qemu()))?;
        let mut qemu = Self { child, stderr };
        let until = Instant::now() + START_LIMIT;
        let channels = Channels {
            serial: qemu.accept(&serial, until)?,
            qmp: qemu.accept(&qmp, until)?,
            agent: qemu.accept(&agent, until)?,
        };
        Ok((qemu, channels))
    }

    /// Returns the processor time that it has taken, or zero once it has ended.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.unwrap_or_default();
        // After the name in parentheses; utime and stime are fields 14 and 15, in hundredths.
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        let times = fields.split(' ').skip(11).take(2);
        Duration::from_millis(times.filter_map(|t| t.parse::<u64>().ok()).sum::<u64>() * 10)
    }

    /// Returns its messages on standard error.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Returns whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn accept(&mut self, listener: &UnixListener, until: Instant) -> Result<UnixStream> {
        listener.set_nonblocking(true)?;
        loop {
            if let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            if self.has_ended() || Instant::now() > until {
                bail!("QEMU does not start: {}", self.said().trim());
            }
            sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(machine: &Machine) -> Command {
    let dir = machine.dir.display();
    let socket = |id: &str, more: &str| format!("socket,id={id},path={dir}/{id}{more}");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", &machine.arch.qemu()]);
    command.args([
        "-no-user-config",
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
    ]);
    let (cpus, memory) = (machine.cpus.to_string(), machine.memory.to_string());
    let model = machine.arch.machine;
    command.args(["-M", model, "-smp", &cpus, "-m", &memory]);
    if machine.accel == Accel::Counted {
        command.args(["-icount", "shift=0"]);
    }
    command
        .arg("-accel")
        .arg(machine.accel.argument(machine.one_thread));
    command.args(["-cpu", machine.cpu]);
    command.arg("-kernel").arg(machine.kernel);
    match machine.start {
        Start::Boot(initrd) => command.arg("-initrd").arg(initrd),
        Start::Snapshot(_) => command.args(["-incoming", "defer"]),
    };
    command.args(["-append", machine.append]);
    if let Some(disk) = machine.disk {
        // It need not outlive a crash of the host.
        let disk = disk.display();
        let drive = format!("file={disk},if=virtio,format=raw,cache=unsafe");
        command.arg("-drive").arg(drive);
    }
    command.args([
        "-chardev",
        &socket("serial", ",mux=on"),
        "-serial",
        "chardev:serial",
    ]);
    command.args([
        "-chardev",
        &socket("qmp", ""),
        "-mon",
        "chardev=qmp,mode=control",
    ]);
    command.args([
        "-chardev",
        &socket("agent", ""),
        "-device",
        "virtio-serial-pci",
    ]);
    command.args([
        "-device",
        &format!("virtserialport,chardev=agent,name={PORT}"),
    ]);
    for (n, model) in machine.nics.iter().enumerate() {
        let (local, remote) = (guest_socket(machine.dir, n), host_socket(machine.dir, n));
        let (local, remote) = (local.display(), remote.display());
        command.arg("-netdev").arg(format!(
            "dgram,id=net{n},local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"
        ));
        let [a, b, c, d, e, f] = nic_mac(n);
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let device = match model {
            NicModel::Virtio => VIRTIO,
            NicModel::E1000 => "e1000",
        };
        command.arg("-device");
        command.arg(format!(
            "{device},id=nic{n},netdev=net{n},mac={mac},romfile="
        ));
    }
    command
}
