// SPDX-License-Identifier: GPL-2.0

//! A guest: a kernel with the module at hand, its console watched, its agent
//! listening, and a wire in each of its network cards.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{bail, ensure, Context, Result};
use nctest_guest::PRELOAD;
use tempfile::TempDir;

use crate::accel::Accel;
use crate::agent::Agent;
use crate::disk::Disk;
use crate::env::{self, Guest};
use crate::initramfs::Initramfs;
use crate::qemu::{Machine, NicModel, Qemu, Start};
use crate::qmp::Qmp;
use crate::serial::Serial;
use crate::snapshot;
use crate::wire::Wire;

/// The module's path in the guest.
pub const MODULE: &str = "/netconsole_ext.ko";

/// A guest to be.
pub struct VmConfig {
    /// The name of its directory under `NCTEST_OUT`, with `::` for `/`.
    pub name: String,
    /// The kernel and the module.
    pub guest: Guest,
    /// More words for the kernel's command line.
    pub append: String,
    /// The network cards.
    pub nics: Vec<NicModel>,
    /// Memory, in MiB.
    pub memory: u32,
    /// The guest's CPU model, as QEMU names it.
    pub cpu: String,
    /// The number of processors.
    pub cpus: u32,
    /// More files for the guest: path in the guest, path on the host.
    pub files: Vec<(String, PathBuf)>,
    /// Files that are not executable: path in the guest, content.
    pub texts: Vec<(String, String)>,
    /// Alarms on the console that this test expects.
    pub expected: Vec<String>,
    /// The seed of the wires' faults.
    pub seed: u64,
    /// Settings of the running kernel, as `sysctl` has them: name, value.
    pub sysctls: Vec<(String, String)>,
    /// A disk to boot from, with kernel and initramfs, in place of what the harness makes. The
    /// guest's files are put on it.
    pub disk: Option<Disk>,
    /// Whether to start from a snapshot of such a machine, rather than boot it.
    pub from_snapshot: bool,
    /// The longest time that the guest may take to start.
    pub boot_limit: Duration,
    /// The accelerator; `None`: the best one that works on this host.
    pub accel: Option<Accel>,
    /// Whether one thread emulates all processors.
    pub one_thread: bool,
    /// A second output for the serial console.
    pub echo: Option<Box<dyn Write + Send>>,
}

impl VmConfig {
    /// Returns a guest with one virtio card.
    pub fn new(name: &str, guest: Guest) -> Self {
        Self {
            name: name.into(),
            cpu: guest.arch.cpu.into(),
            guest,
            append: String::new(),
            nics: vec![NicModel::Virtio],
            memory: 512,
            cpus: 2,
            files: Vec::new(),
            texts: Vec::new(),
            expected: Vec::new(),
            seed: 0,
            sysctls: Vec::new(),
            disk: None,
            from_snapshot: false,
            boot_limit: Duration::from_secs(120),
            accel: None,
            one_thread: false,
            echo: None,
        }
    }

    /// Returns the directory for the guest's logs: a folder for each part of its name.
    pub fn out_dir(&self) -> Result<PathBuf> {
        let out = env::out_dir()?.join(self.name.replace("::", "/"));
        fs::create_dir_all(&out)?;
        Ok(out)
    }

    /// Sets the `sysctl` `name`, before anything else happens.
    pub fn sysctl(&mut self, name: &str, value: impl ToString) {
        self.sysctls.push((name.into(), value.to_string()));
    }

    /// Gives the guest a module of the test kernel's tree, under its own name in the guest's root.
    pub fn kernel_module(&mut self, path: &str) -> Result<()> {
        let from = env::test_kdir()?.join(path);
        let name = from
            .file_name()
            .context("a module has a name")?
            .to_string_lossy();
        self.files.push((format!("/{name}"), from.clone()));
        Ok(())
    }

    /// Gives the guest a program of the host by the name it has in `PATH`.
    pub fn command(&mut self, name: &str) -> Result<()> {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&paths)
            .map(|dir| dir.join(name))
            .find(|path| path.is_file());
        let found = found.with_context(|| format!("no {name} in PATH"))?;
        self.program(&found.to_string_lossy())
    }

    /// Gives the guest a program of the host and the libraries that it needs, all under the paths
    /// that they have here.
    pub fn program(&mut self, path: &str) -> Result<()> {
        let output = Command::new("ldd").arg(path).output().context("ldd")?;
        ensure!(output.status.success(), "what libraries does {path} need?");
        let libraries = String::from_utf8(output.stdout)?;
        // "name => path (address)", or "path (address)" for the loader.
        let words = libraries.split_whitespace().filter(|w| w.starts_with('/'));
        for file in words.chain([path]) {
            if !self.files.iter().any(|(to, _)| to == file) {
                self.files.push((file.to_string(), PathBuf::from(file)));
            }
        }
        Ok(())
    }

    /// Returns the part of the root file system that all guests have in common.
    fn initramfs(&self) -> Result<Initramfs> {
        let mut root = Initramfs::new(&env::init()?, &env::busybox()?)?;
        let mut preload = String::new();
        for module in &self.guest.preload {
            let name = module
                .file_name()
                .context("a module has a name")?
                .to_string_lossy();
            let path = format!("/lib/{name}");
            root.copy(&path, module)?;
            preload += &format!("{path}\n");
        }
        root.file(PRELOAD, preload.as_bytes())?;
        Ok(root)
    }

    /// Returns the root with the module and this guest's files, for an init that needs them.
    fn whole_initramfs(&self) -> Result<Vec<u8>> {
        let mut root = self.initramfs()?;
        root.copy(MODULE, &self.guest.module)?;
        for (to, from) in &self.files {
            root.copy(to, from)?;
        }
        for (to, text) in &self.texts {
            root.text(to, text)?;
        }
        root.finish()
    }
}

/// A running guest.
pub struct Vm {
    /// Its console.
    pub serial: Serial,
    /// Its agent.
    pub agent: Agent,
    /// The wires of its network cards, in the cards' order.
    pub wires: Vec<Wire>,
    /// The kernel's release.
    pub release: String,
    /// The time that it took to start.
    pub start_time: Duration,
    /// The directory of its logs.
    pub out: PathBuf,
    /// The accelerator.
    pub accel: Accel,
    /// Alarms that are no failure.
    pub expected: Vec<String>,
    qmp: Qmp,
    qemu: Qemu,
    _dir: TempDir,
}

impl Vm {
    /// Starts a guest, from a snapshot or by booting it, and waits until its agent answers.
    pub fn start(mut config: VmConfig) -> Result<Self> {
        if env::kasan() {
            // KASAN's shadow of each byte, its quarantine, and the stack of each allocation.
            config.memory *= 3;
            config.boot_limit *= 3;
            config.append.push_str(" kmemleak=on");
        }
        let mut vm = if let Some(disk) = &config.disk {
            for (to, from) in &config.files {
                disk.put(to, 0o755, &fs::read(from)?)?;
            }
            for (to, text) in &config.texts {
                disk.put(to, 0o644, text.as_bytes())?;
            }
            let release = config.guest.kernel.parent().and_then(Path::file_name);
            let release = release.context("the kernel's folder")?.to_string_lossy();
            let initramfs = disk.read(&format!("/boot/initrd.img-{release}"))?;
            Self::boot(initramfs, &mut config)?
        } else if config.from_snapshot {
            Self::resume_from(&snapshot::provide(&config)?, &mut config)?
        } else {
            let root = config.whole_initramfs()?;
            Self::boot(root, &mut config)?
        };
        for (name, value) in &config.sysctls {
            vm.sh(&format!("sysctl -w {name}={value}"))?;
        }
        Ok(vm)
    }

    /// Boots a guest with nothing but the part that all have in common.
    pub fn boot_bare(config: &mut VmConfig) -> Result<Self> {
        let root = config.initramfs()?.finish()?;
        Self::boot(root, config)
    }

    /// Boots, and boots again if the guest's clock is wrong: on a busy host the kernel can
    /// calibrate the processor's counter by the emulated PIT instead of the HPET, and then time
    /// passes too fast in the guest, for example five times, and all waits in it end too soon.
    fn boot(root: Vec<u8>, config: &mut VmConfig) -> Result<Self> {
        const WRONG_CLOCK: &str = "tsc: Using PIT calibration value";
        const ATTEMPTS: u32 = 5;
        let mut vm = Self::boot_once(&root, config)?;
        for _ in 1..ATTEMPTS {
            if !vm.serial.says(WRONG_CLOCK) {
                break;
            }
            println!(
                "{}: a wrong clock ({WRONG_CLOCK}); booting again",
                config.name
            );
            drop(vm);
            vm = Self::boot_once(&root, config)?;
        }
        Ok(vm)
    }

    fn boot_once(root: &[u8], config: &mut VmConfig) -> Result<Self> {
        let began = Instant::now();
        let dir = TempDir::with_prefix("nctest-")?;
        let initrd = dir.path().join("initrd");
        fs::write(&initrd, root)?;
        let mut vm = Self::connect(dir, &Start::Boot(&initrd), config)?;
        vm.release = (vm.agent.ready(config.boot_limit))
            .with_context(|| format!("the console's last lines:\n{}", vm.serial.end()))?;
        vm.start_time = began.elapsed();
        Ok(vm)
    }

    /// Goes on from a snapshot, and gives the guest the files that it lacks.
    fn resume_from(snapshot: &Path, config: &mut VmConfig) -> Result<Self> {
        let began = Instant::now();
        let dir = TempDir::with_prefix("nctest-")?;
        let mut vm = Self::connect(dir, &Start::Snapshot(snapshot), config)?;
        vm.qmp.load(snapshot)?;
        vm.resume()?;
        // The guest's clock has stood still, and its random numbers would equal all the others'.
        // The first few may even so: the kernel has them in store.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let (now, seed) = (now.as_secs(), config.seed);
        let release = vm.sh(&format!(
            "date -s @{now} >&2; echo {now} {seed} > /dev/urandom; uname -r"
        ))?;
        vm.release = release.lines().last().unwrap_or_default().into();
        let module = (MODULE.to_string(), config.guest.module.clone());
        for (to, from) in [module].iter().chain(&config.files) {
            let data = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
            vm.agent.put(to, 0o755, &data)?;
        }
        for (to, text) in &config.texts {
            vm.agent.put(to, 0o644, text.as_bytes())?;
        }
        vm.start_time = began.elapsed();
        Ok(vm)
    }

    /// Starts QEMU and connects to it; the guest may have come to any point by then.
    fn connect(dir: TempDir, start: &Start, config: &mut VmConfig) -> Result<Self> {
        let out = config.out_dir()?;
        let arch = config.guest.arch;
        let append = format!(
            "{} loglevel=8 log_buf_len=16M printk.devkmsg=on panic=-1 rdinit=/init {}",
            arch.append, config.append
        );
        // The wires come first: QEMU needs the sockets that they listen on.
        let mut wires = Vec::new();
        for n in 0..config.nics.len() {
            wires.push(Wire::new(dir.path(), n, config.seed)?);
        }
        let accel = config.accel.unwrap_or_else(|| Accel::detect(arch));
        let (qemu, channels) = Qemu::start(&Machine {
            dir: dir.path(),
            arch,
            kernel: &config.guest.kernel,
            start,
            append: append.trim(),
            disk: config.disk.as_ref().map(Disk::path),
            memory: config.memory,
            cpu: &config.cpu,
            cpus: config.cpus,
            nics: &config.nics,
            accel,
            one_thread: config.one_thread,
        })?;
        Ok(Self {
            serial: Serial::watch(channels.serial, &out.join("serial.log"), config.echo.take())?,
            agent: Agent::new(channels.agent),
            wires,
            release: String::new(),
            start_time: Duration::ZERO,
            out,
            accel,
            expected: config.expected.clone(),
            qmp: Qmp::new(channels.qmp)?,
            qemu,
            _dir: dir,
        })
    }

    /// Saves the machine as a snapshot. It stands still from then on.
    pub fn save(&mut self, file: &Path) -> Result<()> {
        self.pause()?;
        self.qmp.save(file)
    }

    /// Returns the processor time that the emulator has taken.
    pub fn cpu_time(&self) -> Duration {
        self.qemu.cpu_time()
    }

    /// Runs a script in the guest that must succeed, and returns its output.
    pub fn sh(&mut self, script: &str) -> Result<String> {
        self.agent.sh(script)
    }

    /// Plugs the `n`th card's cable in or out, as far as the guest can see.
    pub fn set_link(&mut self, n: usize, up: bool) -> Result<()> {
        let arguments = [("name", format!("nic{n}").into()), ("up", up.into())];
        self.qmp.execute("set_link", arguments).map(drop)
    }

    /// Stops the machine's clocks and processors. Frames that are sent to it wait.
    pub fn pause(&mut self) -> Result<()> {
        self.qmp.execute("stop", []).map(drop)
    }

    /// Lets a stopped machine go on; all frames that have waited arrive at once.
    pub fn resume(&mut self) -> Result<()> {
        self.qmp.execute("cont", []).map(drop)
    }

    /// Waits until the guest has put the machine to sleep.
    pub fn wait_for_sleep(&mut self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        while self.qmp.status()? != "suspended" {
            ensure!(Instant::now() < until, "the machine does not go to sleep");
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Wakes the machine from its sleep.
    pub fn wake(&mut self) -> Result<()> {
        self.qmp.execute("system_wakeup", []).map(drop)
    }

    /// Waits until a processor has its interrupts off in every sample.
    pub fn wait_for_lockup(&mut self, cpu: u32, limit: Duration) -> Result<()> {
        /// RFLAGS: interrupts are on.
        const IF: u64 = 1 << 9;
        let until = Instant::now() + limit;
        let mut off = 0;
        while off < 30 {
            let text = self.qmp.registers(cpu)?;
            let (_, flags) = text.split_once("RFL=").context("no RFL=")?;
            let flags = flags.split_whitespace().next().unwrap_or_default();
            off = match u64::from_str_radix(flags, 16)? & IF {
                0 => off + 1,
                _ => 0,
            };
            ensure!(Instant::now() < until, "CPU {cpu} is alive");
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Sends every processor a non-maskable interrupt.
    pub fn inject_nmi(&mut self) -> Result<()> {
        self.qmp.execute("inject-nmi", []).map(drop)
    }

    /// Returns whether the machine has ended.
    pub fn has_ended(&mut self) -> bool {
        self.qemu.has_ended()
    }

    /// Fails if the console shows an alarm or the wires have seen a bad frame.
    pub fn check(&self) -> Result<()> {
        if let Some(alarm) = self.serial.alarm(&self.expected) {
            bail!("an alarm on the guest's console:\n{alarm}");
        }
        for (n, wire) in self.wires.iter().enumerate() {
            let bad = wire.bad_frames();
            if let Some(first) = bad.first() {
                bail!("{} bad frames on wire {n}, the first: {first}", bad.len());
            }
        }
        Ok(())
    }

    /// Calls [`check`](Self::check) once everything that the living guest has logged so far is on
    /// its console. An emulated serial port takes minutes for 100,000 lines: there is no limit
    /// while it goes on.
    pub fn settle(&mut self) -> Result<()> {
        const MARKER: &str = "nctest: all that was logged is here";
        const SILENCE: Duration = Duration::from_secs(60);
        let from = self.serial.len();
        self.sh(&format!("echo '<6>{MARKER}' > /dev/kmsg"))?;
        loop {
            let said = self.serial.len();
            let waited = self.serial.wait_for(MARKER, from, SILENCE);
            if waited.is_ok() || self.serial.len() == said {
                waited?;
                return self.check();
            }
        }
    }

    /// Saves the frames of the wires, one capture a wire.
    pub fn save_captures(&self) -> Result<()> {
        for (n, wire) in self.wires.iter().enumerate() {
            wire.save(&self.out.join(format!("wire{n}.pcapng")))?;
        }
        Ok(())
    }

    /// Returns the report of a failed test: the console's end and the wires' statistics.
    pub fn report(&self) -> String {
        let mut report = format!(
            "--- the console's last lines (all: {}):\n{}\n",
            self.out.join("serial.log").display(),
            self.serial.end()
        );
        for (n, wire) in self.wires.iter().enumerate() {
            report += &format!("--- wire {n}: {}\n", wire.stats());
        }
        match self.qemu.said().trim() {
            "" => {}
            said => report += &format!("--- QEMU: {said}\n"),
        }
        report
    }
}
